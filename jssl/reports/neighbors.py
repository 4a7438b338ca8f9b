"""The nearest training examples of some test examples, by the cosine of their features."""

from typing import Any

import numpy as np

from jssl.evals.knn import unit
from jssl.reports.examples import EmbeddedRows, Embedding
from jssl.reports.thumbnails import shown

QUERIES = 8
NEIGHBORS = 8


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices int [M, k], cosines float32 [M, k]) of the nearest bank rows, nearest first.

    Args:
      bank: float32 [N, D].
      queries: float32 [M, D].
      k: number of neighbors; at most N are returned.
    """
    cosines = unit(queries) @ unit(bank).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosines, order, axis=1)


def grid(embedding: Embedding) -> list[dict[str, Any]]:
    """Returns a row for each query: {"query": example, "neighbors": [example, ...]}.

    An example has "image" or "text", "name", "label" and, for neighbors, "cosine" and "is_same",
    whether its class is that of the query. Without an evaluation split the queries are training
    examples, and an example is no neighbor of itself.
    """
    bank = embedding.bank
    queries = embedding.queries or bank
    chosen = spread_over_classes(queries, QUERIES)
    extra = int(embedding.queries is None)
    found, cosines = nearest(bank.features, queries.features[chosen], NEIGHBORS + extra)
    rows = []
    for query, indices, values in zip(
        chosen.tolist(), found.tolist(), cosines.tolist(), strict=True
    ):
        neighbors = []
        for index, cosine in zip(indices, values, strict=True):
            if (extra and index == query) or len(neighbors) == NEIGHBORS:
                continue
            entry: dict[str, Any] = example(bank, index, embedding.classes)
            label = queries.label(query)
            entry["cosine"] = f"{cosine:.2f}"
            entry["is_same"] = label == bank.label(index) if label >= 0 else None
            neighbors.append(entry)
        rows.append({"query": example(queries, query, embedding.classes), "neighbors": neighbors})
    return rows


def spread_over_classes(queries: EmbeddedRows, count: int) -> np.ndarray:
    """Returns the indices of `count` queries, of as many classes as possible."""
    if queries.labels is None:
        return np.linspace(0, len(queries.rows) - 1, min(count, len(queries.rows))).astype(int)
    seen: dict[int, int] = {}
    rank = []  # of an example within its class
    for label in queries.labels.tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    order = np.lexsort((queries.labels, np.array(rank)))
    return order[:count]


def example(rows: EmbeddedRows, i: int, classes: list[str]) -> dict[str, str]:
    """Returns what the page shows of an example: its image or text, its name and its label."""
    row = int(rows.rows[i])
    label = rows.label(i)
    name = classes[label] if 0 <= label < len(classes) else ""
    return shown(rows.source, row) | {"name": rows.source.describe(row), "label": name}
