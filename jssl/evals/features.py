"""The features of a data set: `method.embed` over all of it, in index order."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jssl import mesh as meshes
from jssl import signals
from jssl.data import order
from jssl.data.splits import few

log = logging.getLogger("jssl")


class Embedded(NamedTuple):
    """The readable examples of a data set, embedded.

    Attributes:
        features: float32 [N, D].
        labels: int32 [N], -1 where there is none; None if the set has no labels.
        rows: int64 [N], ascending: which example of the source each one is.
        unreadable: How many examples of the source were left out.
    """

    features: np.ndarray
    labels: np.ndarray | None
    rows: np.ndarray
    unreadable: int


class Features:
    """Embeds whole sources: ``features(state, source)``; the program is compiled once.

    An example that cannot be read is left out. A training step may put another one in its place; an
    evaluation must not, because the substitute would count twice. What is left out is named in the
    log, once for each source.

    Every process reads all examples, and what comes back is whole on every process. An example that
    one process could not read is left out on all.
    """

    def __init__(self, embed: Callable, mesh: Mesh, batch_size: int):
        self.mesh, self.devices = mesh, meshes.batch_parts(mesh)
        self.batch_size = -(-batch_size // self.devices) * self.devices  # rounded up
        self.split = meshes.batch_sharding(mesh)
        self._named: set[str] = set()
        embed = meshes.inside(mesh, embed)
        self.embed = jax.jit(embed, out_shardings=meshes.everywhere(mesh))

    def __call__(
        self,
        state,
        source,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(features float32 [N, D], labels int32 [N] or None) of what can be read; see `whole`."""
        found = self.whole(state, source, progress)
        return found.features, found.labels

    def whole(
        self,
        state,
        source,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Embedded:
        """Embeds all examples of `source` with the parameters of `state`.

        `progress(done, total)` is called after each batch. Raises UserError if no example can be
        read, and `signals.Stopped` if the run is asked to stop.
        """
        n = len(source)
        found = []
        labels = []
        damaged = []
        steps = -(-n // self.batch_size)
        with signals.pool(1) as reader:  # reads the next batch while the device embeds
            coming = reader.submit(self._read, source, 0)
            for i in range(steps):
                signals.check()
                batch, label, missing = signals.result(coming)
                coming = reader.submit(self._read, source, i + 1) if i + 1 < steps else None
                found.append(self.embed(state, batch))
                labels.append(label)
                damaged.append(missing)
                progress(min((i + 1) * self.batch_size, n), n)
        features = np.concatenate([np.asarray(f, np.float32) for f in found])[:n]
        intact = ~_anywhere(np.concatenate(damaged)[:n])
        rows = np.flatnonzero(intact)
        self._name(source, np.flatnonzero(~intact))
        known = None if source.classes is None else np.concatenate(labels)[:n][rows]
        if len(rows) < n:
            features = features[rows]
        return Embedded(features, known, rows, n - len(rows))

    def _read(self, source, step: int):
        """One batch as global arrays, its labels or None, and bool [batch]: what is unreadable."""
        ids, _ = order.sequential(step, len(source), self.batch_size)
        rows = source.read(ids)
        damaged = rows.pop("damaged") >= 0
        labels = rows.pop("label", None)
        put = lambda x: jax.make_array_from_callback(x.shape, self.split, lambda at: x[at])
        return {key: put(value) for key, value in rows.items()}, labels, damaged

    def _name(self, source, missing):
        if not len(missing) or source.name in self._named:
            return
        self._named.add(source.name)
        named = few([source.describe(row) for row in missing[:4].tolist()], 3)
        log.warning(
            "%d of %d examples of %s cannot be read and are left out: %s",
            len(missing),
            len(source),
            source.name,
            named,
        )


def _anywhere(missing: np.ndarray) -> np.ndarray:
    """bool [N]: which examples are missing on any process."""
    if jax.process_count() == 1:
        return missing
    return np.any(multihost_utils.process_allgather(missing), axis=0)
