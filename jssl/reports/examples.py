"""The features of some examples of a run: of its training split, and of its evaluation split."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from jssl.config import Config, UserError
from jssl.core import TrainState
from jssl.data.labels import relabel
from jssl.data.source import Batch, Source
from jssl.data.sources.absent import Absent
from jssl.evals.features import Features
from jssl.evals.online import held_out
from jssl.log import log_progress
from jssl.training.restore import load_state
from jssl.training.setup import Run, setup_run
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")


class SomeRows:
    """At most `count` rows of a source, evenly spaced. Other attributes are those of the source."""

    def __init__(self, source: Any, count: int):
        """Selects the rows."""
        self.source = source
        number = min(count, len(source))
        self.rows = np.linspace(0, len(source) - 1, number).astype(np.int64)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the selected rows at `indices`."""
        return self.source.read(self.rows[indices])

    def describe(self, index: int) -> str:
        """Returns the file or the record of an example."""
        return self.source.describe(int(self.rows[index]))


class EmbeddedRows(NamedTuple):
    """The features of some examples.

    Attributes:
      source: the source of these examples.
      split: the split of the config that it is.
      rows: int64 [N], the index in `source` of each example.
      features: float32 [N, D].
      labels: int32 [N], -1 for no label; None if the source has no labels.
    """

    source: Source
    split: str
    rows: np.ndarray
    features: np.ndarray
    labels: np.ndarray | None

    def label(self, i: int) -> int:
        """Returns the label of feature i; -1 if there is none."""
        return -1 if self.labels is None else int(self.labels[i])


class Embedding(NamedTuple):
    """A run with the features of its splits.

    Attributes:
      run: the run.
      state: its state at the newest checkpoint.
      bank: rows of the training split.
      queries: rows of the evaluation split; None if it cannot be read.
      reason: why there are no queries; empty if there are.
      classes: class names by number; empty if there are no labels.
    """

    run: Run
    state: TrainState
    bank: EmbeddedRows
    queries: EmbeddedRows | None
    reason: str
    classes: list[str]


def open_run(tree: ml_collections.ConfigDict, folder: RunFolder) -> tuple[Run, TrainState]:
    """Builds a run without its optimizer state, and restores its newest checkpoint.

    Its data may be absent (`jssl.data.sources.absent`).

    Raises:
      UserError: there is no checkpoint, or the config cannot be built.
    """
    run = setup_run(Config(tree), data_info=folder.data_info, training=False)
    return run, load_state(run, folder)


def embed_splits(run: Run, state: TrainState, count: int) -> Embedding:
    """Embeds at most `count` examples of each split.

    Raises:
      UserError: the training split cannot be read.
    """
    source = run.data.source
    if isinstance(source, Absent):
        raise UserError(f"the data of the run cannot be opened here: {source.reason}")
    features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)
    bank = embed_rows(features, state, source, run.config.data.split, count)
    classes = list(source.classes or ())
    queries = None
    reason = ""
    try:
        others = held_out(run.config, run.data_info)
        if classes:
            others = relabel(others, classes, "the evaluation split")
        queries = embed_rows(features, state, others, run.config.eval.split, min(count, 1000))
    except UserError as error:
        reason = str(error)
    return Embedding(run, state, bank, queries, reason, classes)


def embed_rows(
    features: Features, state: TrainState, source: Source, split: str, count: int
) -> EmbeddedRows:
    """Embeds at most `count` rows of a source; a row that is not finite is left out."""
    some: Any = SomeRows(source, count)
    embedded = features.whole(state, some, log_progress(source.name))
    finite = np.isfinite(embedded.features).all(axis=1)
    if not finite.any():
        raise UserError(f"no feature of {source.name} is finite: the encoder diverged")
    labels = None if embedded.labels is None else embedded.labels[finite]
    rows = some.rows[embedded.rows[finite]]
    return EmbeddedRows(source, split, rows, embedded.features[finite], labels)
