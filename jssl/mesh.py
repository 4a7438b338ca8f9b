"""The device mesh, and which part of the state lies where.

One ``jit`` with Auto axes: the batch is split over ``data`` and ``fsdp``, parameters by the path
rules below, and XLA inserts the collectives. Losses and BatchNorm see the global batch.
"""

import os
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import UserError

AXES = ("data", "fsdp")
SMALLEST = 2**16  # elements; below this a gather costs more than the memory that it saves


def replicated(shape, mesh) -> P:
    return P()


def largest(shape, mesh) -> P:
    """Split the largest dimension that ``fsdp`` divides; small arrays stay whole."""
    n = mesh.shape["fsdp"]
    if n == 1 or np.prod(shape) < SMALLEST:
        return P()
    fits = [i for i in np.argsort(shape)[::-1] if shape[i] % n == 0]
    return P(*["fsdp" if fits and i == fits[0] else None for i in range(len(shape))])


def rows(shape, mesh) -> P:
    """Split the rows over all devices, if they divide them: queues, banks."""
    return P(AXES) if shape and shape[0] % mesh.size == 0 and mesh.size > 1 else P()


# First match wins. A path looks like "params/encoder/conv1/kernel", "opt_state/1/0/trace/...".
RULES = (
    (r"^(params|opt_state|buffers/target)/", largest),
    (r"^buffers/(queue|bank)\b", rows),
    (r"", replicated),
)


def make(*, data: int, fsdp: int) -> Mesh:
    """The mesh of all devices. -1 on one axis: all devices that are left."""
    count, sizes = jax.device_count(), {"data": data, "fsdp": fsdp}
    free = [axis for axis, n in sizes.items() if n == -1]
    known = int(np.prod([n for n in sizes.values() if n != -1]))
    wanted = f"mesh.data={data} and mesh.fsdp={fsdp}"
    if len(free) > 1 or known < 1 or count % known or (not free and known != count):
        raise UserError(f"{wanted} do not cover {count} devices; try mesh.data=-1 mesh.fsdp=1")
    shape = [count // known if n == -1 else n for n in sizes.values()]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every batch array, over all devices."""
    return NamedSharding(mesh, P(AXES))


def shardings(shapes, mesh: Mesh):
    """A NamedSharding for every array of `shapes` (a tree of ShapeDtypeStructs), by `RULES`."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next(rule for pattern, rule in RULES if re.search(pattern, name))
        return NamedSharding(mesh, rule(leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, shapes)


def check_batch(key: str, batch_size: int, parts: int, what: str) -> None:
    """`UserError` unless `parts` divides `batch_size`."""
    if batch_size < 1 or batch_size % parts:
        low = max(batch_size // parts, 1) * parts
        tries = f"{low}" if low > batch_size else f"{low} or {low + parts}"
        raise UserError(f"{key}={batch_size} must be a multiple of {parts} {what}; try {tries}")


def connect() -> None:
    """Joins the other processes of a run, where the environment names a coordinator
    (JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES, JAX_PROCESS_ID)."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        count, index = (int(os.environ[f"JAX_{key}"]) for key in ("NUM_PROCESSES", "PROCESS_ID"))
        jax.distributed.initialize(address, num_processes=count, process_id=index)
