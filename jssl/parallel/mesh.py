"""The device mesh, and which part of the state lies where.

One ``jit`` with Auto axes: the batch is split over ``data`` and ``fsdp``, parameters over ``fsdp``
and ``tensor`` by the path rules below, and XLA inserts the collectives. Losses and BatchNorm see
the global batch.
"""

import math
import re
from functools import partial, wraps
from typing import Annotated

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import UserError
from jssl.config.values import INT, Range

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that examples are split over
Axis = Annotated[int, Range(1, INT, also=(-1,))]
MIN_SHARD_SIZE = 2**16  # elements; below this a gather costs more than the memory that it saves


def replicated(shape, mesh) -> P:
    return P()


def shard_largest_dim(shape, mesh, wide: int | None = None) -> P:
    """`tensor` on the dimension `wide` (from the end, -1 is the last), `fsdp` on the largest other
    one; each only where it divides. Small arrays stay whole."""
    spec = [None] * len(shape)
    if np.prod(shape) < MIN_SHARD_SIZE:
        return P()
    n = mesh.shape["tensor"]
    if wide is not None and -wide <= len(shape) and n > 1 and shape[wide] % n == 0:
        spec[wide] = "tensor"
    n = mesh.shape["fsdp"]
    fits = [i for i in np.argsort(shape)[::-1] if shape[i] % n == 0 and spec[i] is None]
    if n > 1 and fits:
        spec[fits[0]] = "fsdp"
    return P(*spec) if any(spec) else P()


def shard_rows(shape, mesh) -> P:
    """Split the rows over all devices, if they divide them: queues, banks."""
    return P(AXES) if shape and shape[0] % mesh.size == 0 and mesh.size > 1 else P()


# First match wins. A path looks like "params/encoder/conv1/kernel", "opt_state/1/0/trace/...".
# Transformers as Megatron-LM splits them (Shoeybi et al. 2019, section 3): the first product of a
# pair by its outputs, the second by its inputs, so that one sum over `tensor` ends each branch.
WEIGHTS = r"^(params|opt_state|buffers/teacher)/"
RULES = (
    (WEIGHTS + r".*\b(qkv|fc1)/kernel$", partial(shard_largest_dim, wide=-1)),
    (WEIGHTS + r".*\b(proj|fc2)/kernel$", partial(shard_largest_dim, wide=-2)),
    (
        WEIGHTS + r".*\b(tokens/embedding|direction)$",
        partial(shard_largest_dim, wide=-2),
    ),  # ids, prototypes
    (WEIGHTS, shard_largest_dim),
    (r"^buffers/(queue|bank)\b", shard_rows),
    (r"", replicated),
)


def make_mesh(*, data: Axis, fsdp: Axis, tensor: Axis = 1, devices: list | None = None) -> Mesh:
    """The mesh of all devices (or of `devices`). -1 on one axis: all that are left."""
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, n in sizes.items() if n == -1]
    known = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1 or known < 1 or count % known or (not free and known != count):
        wanted = " ".join(f"mesh.{axis}={n}" for axis, n in sizes.items())
        raise UserError(f"{wanted} do not cover {count} devices; try mesh.data=-1, the others 1")
    shape = [count // known if n == -1 else n for n in sizes.values()]
    # A torus of 16 x 16 has no axis of 8: such an axis is a part of one.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every batch array, over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def with_mesh(mesh: Mesh, function):
    """`function`, traced where `shard_batch` knows the mesh."""

    @wraps(function)
    def traced(*given):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*given)

    return traced


def shard_batch(x):
    """x with its leading axis over the devices, as the batch has it; as it is on no mesh.

    XLA infers where activations lie. With split parameters, or rows taken by traced indices, it
    may choose to gather the batch and to compute all of it on every device; so networks say it.
    """
    here = jax.sharding.get_abstract_mesh()
    if here.empty or len(x) % batch_parts(here):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def replicate(x):
    """x whole on every device: what a loop takes rows of is gathered once, and not each time."""
    on_mesh = not jax.sharding.get_abstract_mesh().empty
    return jax.lax.with_sharding_constraint(x, P()) if on_mesh else x


def partition_spec(path: str, shape, mesh: Mesh) -> P:
    """Where the array of this path and shape lies, by `RULES`."""
    return next(rule for pattern, rule in RULES if re.search(pattern, path))(shape, mesh)


def shardings(shapes, mesh: Mesh):
    """A NamedSharding for every array of `shapes`, a tree of ShapeDtypeStructs."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, shapes)


def check_batch(key: str, batch_size: int, parts: int, what: str) -> None:
    """`UserError` unless `parts` divides `batch_size`."""
    if batch_size < 1 or batch_size % parts:
        low = max(batch_size // parts, 1) * parts
        tries = f"{low}" if low > batch_size else f"{low} or {low + parts}"
        raise UserError(f"{key}={batch_size} must be a multiple of {parts} {what}; try {tries}")


def any_across_processes(here: bool) -> bool:
    """Whether `here` is true on any process; all of them wait for each other."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def shares_cached_programs(backend: str) -> bool:
    """Whether several processes may take programs from the compilation cache.

    A CPU program that comes out of the cache may run its collectives in another order than on the
    other processes, and then they wait for each other, or end (seen with jax 0.10.2). On GPUs the
    key holds the links of the process's own GPUs: with unequal links some processes load a program
    and others compile it, and these wait for ever (google/jax issue 40940), unless jax shares the
    fingerprints of all processes.
    """
    if backend == "gpu":
        from jax._src import cache_key

        return hasattr(cache_key, "_shared_fingerprints")
    return backend != "cpu"
