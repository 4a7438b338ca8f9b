"""Two-dimensional maps of features: PCA, t-SNE, and UMAP where it is installed."""

import importlib.util
import logging
import warnings
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from jssl.reports.examples import EmbeddedRows, Embedding

log = logging.getLogger("jssl")
MOST_POINTS = 1000
MOST_CLASSES = 20  # a legend with more colors cannot be read
FEWEST_POINTS = 5  # t-SNE and UMAP need neighbors


def maps(features: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {name of the projection: float [N, 2]} of features float32 [N, D]; needs N >= 2."""
    number = len(features)
    centered = features - features.mean(axis=0)
    flat = np.zeros((number, 2), np.float32)
    dims = min(2, *features.shape)
    if centered.any():
        flat[:, :dims] = PCA(dims, random_state=0).fit_transform(centered)
    made = {"PCA": flat}
    if number < FEWEST_POINTS or min(features.shape) < 2:
        return made
    perplexity = min(30.0, (number - 1) / 3)
    start: Any = "pca"
    made["t-SNE"] = TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(
        centered
    )
    if importlib.util.find_spec("umap"):
        made["UMAP"] = umap(centered)
    return made


def umap(features: np.ndarray) -> np.ndarray:
    """Returns the map of UMAP, float32 [N, 2]."""
    from umap import UMAP  # pyright: ignore[reportMissingImports] - an extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed allows one thread only
        neighbors = min(15, len(features) - 1)
        return np.asarray(UMAP(n_neighbors=neighbors, random_state=0).fit_transform(features))


def points(embedding: Embedding) -> tuple[EmbeddedRows, dict[str, list[dict[str, Any]]]]:
    """Returns the rows that the maps show, and {projection: [{"x", "y", "class", "example"}]}.

    The rows are those of the evaluation split, or of the training split if there are none.
    """
    rows = embedding.queries or embedding.bank
    chosen = np.linspace(0, len(rows.rows) - 1, min(MOST_POINTS, len(rows.rows))).astype(int)
    names = class_names(rows, chosen, embedding.classes)
    examples = [rows.source.describe(int(row)) for row in rows.rows[chosen]]
    made = {}
    for title, where in maps(rows.features[chosen]).items():
        made[title] = [
            {"x": round(float(x), 4), "y": round(float(y), 4), "class": name, "example": example}
            for (x, y), name, example in zip(where, names, examples, strict=True)
        ]
    return rows, made


def class_names(rows: EmbeddedRows, chosen: np.ndarray, classes: list[str]) -> list[str]:
    """Returns the class of each point; rare ones are "other classes" if there are many."""
    labels = [rows.label(int(i)) for i in chosen]
    counts = {label: labels.count(label) for label in set(labels)}
    frequent = sorted(counts, key=lambda label: (-counts[label], label))[: MOST_CLASSES - 1]
    names = []
    for label in labels:
        if not 0 <= label < len(classes):
            names.append("no label")
        elif len(counts) <= MOST_CLASSES or label in frequent:
            names.append(classes[label])
        else:
            names.append("other classes")
    return names
