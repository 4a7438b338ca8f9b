"""The features of a data set: `method.embed` of all of its examples, in index order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jssl.core import Batch, TrainState
from jssl.data import sampling
from jssl.data.source import Source
from jssl.data.splits import few
from jssl.parallel import mesh as meshes
from jssl.parallel import preemption
from jssl.perf import compiler

log = logging.getLogger("jssl")


class Embedded(NamedTuple):
    """The features of the readable examples of a data set.

    Attributes:
      features: float32 [N, D].
      labels: int32 [N], -1 for no label; None if the set has no labels.
      rows: int64 [N], ascending: the index in the source of each example.
      unreadable: number of examples of the source that were left out.
    """

    features: np.ndarray
    labels: np.ndarray | None
    rows: np.ndarray
    unreadable: int


class Features:
    """Embeds whole sources: ``features(state, source)``. The program is compiled once.

    An unreadable example is left out, and logged once for each source. A training step may replace
    it by another example; an evaluation must not, because the replacement would count twice.

    Every process reads all examples, and gets all features. An example that one process could not
    read is left out on all processes.
    """

    def __init__(
        self, embed: Callable[[TrainState, Batch], jax.Array], mesh: Mesh, batch_size: int
    ):
        """Compiles nothing yet.

        Args:
          embed: embed(state, batch) -> float32 [B, D].
          mesh: the device mesh.
          batch_size: examples of a batch; rounded up to a multiple of the devices.
        """
        self.mesh = mesh
        self.devices = meshes.batch_parts(mesh)
        self.batch_size = -(-batch_size // self.devices) * self.devices  # rounded up
        self.split = meshes.batch_sharding(mesh)
        self._named: set[str] = set()
        embed = meshes.with_mesh(mesh, embed)
        self.embed = compiler.jit(embed, mesh, out_shardings=meshes.replicated(mesh))

    def __call__(
        self,
        state: TrainState,
        source: Source,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the features float32 [N, D] and labels int32 [N] or None; see `whole`."""
        embedded = self.whole(state, source, progress)
        return embedded.features, embedded.labels

    def whole(
        self,
        state: TrainState,
        source: Source,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Embedded:
        """Embeds all examples of a source.

        Args:
          state: the state that `embed` gets.
          source: the source.
          progress: progress(done, total) is called after each batch.

        Raises:
          UserError: no example can be read.
          preemption.Stopped: a stop was requested.
        """
        embedded, missing = self._embed(state, source, 0, len(source), progress)
        self._name(source, missing)
        return embedded

    def part(self, state: TrainState, source: Source, start: int, stop: int) -> Embedded:
        """Embeds the examples from `start` up to `stop`; nothing is logged.

        The values are those of `whole`, because the batches are the same.

        Args:
          state: the state that `embed` gets.
          source: the source.
          start: a multiple of `batch_size`.
          stop: a multiple of `batch_size`, or the number of examples.
        """
        return self._embed(state, source, start, stop, lambda done, total: None)[0]

    def _embed(
        self,
        state: TrainState,
        source: Source,
        start: int,
        stop: int,
        progress: Callable[[int, int], None],
    ) -> tuple[Embedded, np.ndarray]:
        """Returns the features of a range of examples, and the indices of the unreadable ones."""
        count = stop - start
        features = []
        labels = []
        damaged = []
        first = start // self.batch_size
        steps = -(-count // self.batch_size)
        with preemption.pool(1) as reader:  # reads the next batch while the device embeds
            pending: Future[Any] = reader.submit(self._read, source, first)
            for i in range(steps):
                preemption.check()
                batch, label, missing = preemption.result(pending)
                if i + 1 < steps:
                    pending = reader.submit(self._read, source, first + i + 1)
                features.append(self.embed(state, batch))
                labels.append(label)
                damaged.append(missing)
                progress(min((i + 1) * self.batch_size, count), count)
        embedded = np.concatenate([np.asarray(f, np.float32) for f in features])[:count]
        intact = ~_on_any_process(np.concatenate(damaged)[:count])
        rows = np.flatnonzero(intact)
        row_labels = None if source.classes is None else np.concatenate(labels)[:count][rows]
        if len(rows) < count:
            embedded = embedded[rows]
        whole = Embedded(embedded, row_labels, rows + start, count - len(rows))
        return whole, np.flatnonzero(~intact) + start

    def _read(self, source: Source, step: int) -> tuple[Batch, np.ndarray | None, np.ndarray]:
        """Returns a batch as global arrays, its labels or None, and bool [batch]: unreadable."""
        ids, _ = sampling.sequential(step, len(source), self.batch_size)
        rows = source.read(ids)
        damaged = rows.pop("damaged") >= 0
        labels = rows.pop("label", None)

        def put(x):
            return jax.make_array_from_callback(x.shape, self.split, lambda index: x[index])

        return {key: put(value) for key, value in rows.items()}, labels, damaged

    def _name(self, source: Source, missing: np.ndarray) -> None:
        """Logs the unreadable examples of a source, once."""
        if not len(missing) or source.name in self._named:
            return
        self._named.add(source.name)
        examples = few([source.describe(row) for row in missing[:4].tolist()], 3)
        log.warning(
            "%d of %d examples of %s cannot be read and are left out: %s",
            len(missing),
            len(source),
            source.name,
            examples,
        )


def _on_any_process(missing: np.ndarray) -> np.ndarray:
    """Returns the examples that are missing on any process: bool [N]."""
    if jax.process_count() == 1:
        return missing
    return np.any(multihost_utils.process_allgather(missing), axis=0)
