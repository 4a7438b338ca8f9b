"""The features of a data set: `method.embed` over all of it, in index order."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import mesh as meshes
from jssl.data import order


class Features:
    """(state, source) -> (features float32 [N, D], labels int32 [N] or None), compiled once.

    Every process reads its own rows of a batch; what comes back is whole on every process.
    """

    def __init__(self, embed, mesh, batch_size: int):
        self.mesh, self.devices = mesh, meshes.batch_parts(mesh)
        self.batch_size = -(-batch_size // self.devices) * self.devices  # rounded up
        self.split = meshes.batch_sharding(mesh)
        embed = meshes.inside(mesh, embed)
        self.embed = jax.jit(embed, out_shardings=NamedSharding(mesh, P()))

    def __call__(self, state, source, progress=lambda done, total: None):
        n, found = len(source), []
        labels = [] if source.classes is not None else None
        steps = -(-n // self.batch_size)
        with ThreadPoolExecutor(1) as reader:  # reads the next batch while the device embeds
            coming = reader.submit(self._read, source, 0)
            for i in range(steps):
                rows, batch = coming.result()
                coming = reader.submit(self._read, source, i + 1) if i + 1 < steps else None
                found.append(self.embed(state, batch))
                if labels is not None:
                    labels.append(rows)
                progress(min((i + 1) * self.batch_size, n), n)
        features = np.concatenate([np.asarray(f, np.float32) for f in found])[:n]
        return features, None if labels is None else np.concatenate(labels)[:n]

    def _read(self, source, step: int):
        """(labels of all rows or None, the batch as global arrays) of one batch."""
        ids, _ = order.sequential(step, len(source), self.batch_size)
        rows = source.read(ids)
        rows.pop("damaged")
        labels = rows.pop("label", None)
        put = lambda x: jax.make_array_from_callback(x.shape, self.split, lambda at: x[at])
        return labels, {key: put(value) for key, value in rows.items()}
