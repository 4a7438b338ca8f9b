"""The device mesh, and the sharding of the state.

One ``jit`` with Auto axes: the batch is split over ``data`` and ``fsdp``, parameters over ``fsdp``
and ``tensor`` by the path rules below, and XLA inserts the collectives. Losses and BatchNorm see
the global batch.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Annotated, Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import ConfigError, UserError
from jssl.config.values import INT, Range

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that examples are split over
Axis = Annotated[int, Range(1, INT, also=(-1,))]
MIN_SHARD_SIZE = 2**16  # elements; below this a gather costs more than the memory that it saves
F = TypeVar("F", bound=Callable[..., Any])


def _replicated(shape: Sequence[int], mesh: Mesh) -> P:
    """Keeps an array whole on every device."""
    return P()


def shard_largest_dim(shape: Sequence[int], mesh: Mesh, wide: int | None = None) -> P:
    """Splits an array over `tensor` and `fsdp`, where they divide its dimensions.

    Arrays below `MIN_SHARD_SIZE` elements stay whole.

    Args:
      shape: of the array.
      mesh: the device mesh.
      wide: the dimension for `tensor`, counted from the end (-1 is the last); None: not split over
        `tensor`. `fsdp` splits the largest other dimension.
    """
    spec: list[str | None] = [None] * len(shape)
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


def shard_rows(shape: Sequence[int], mesh: Mesh) -> P:
    """Splits the rows of a queue or bank over all devices, if their number divides the rows."""
    return P(AXES) if shape and shape[0] % mesh.size == 0 and mesh.size > 1 else P()


# First match wins. A path looks like "params/encoder/conv1/kernel", "opt_state/1/0/trace/...".
# Transformers as Megatron-LM splits them (Shoeybi et al. 2019, section 3): the first product of a
# pair by its outputs, the second by its inputs, so that one sum over `tensor` ends each branch.
WEIGHTS = r"^(params|opt_state|buffers/teacher)/"
RULES = (
    (WEIGHTS + r".*\b(qkv|fc1)/kernel$", partial(shard_largest_dim, wide=-1)),
    (WEIGHTS + r".*\b(proj|fc2)/kernel$", partial(shard_largest_dim, wide=-2)),
    # Rows of token ids, and of prototypes.
    (WEIGHTS + r".*\b(tokens/embedding|direction)$", partial(shard_largest_dim, wide=-2)),
    (WEIGHTS, shard_largest_dim),
    (r"^buffers/(queue|bank)\b", shard_rows),
    (r"", _replicated),
)


def make_mesh(
    *, data: Axis, fsdp: Axis, tensor: Axis = 1, devices: list[Any] | None = None
) -> Mesh:
    """Makes the mesh of all devices, or of `devices`.

    Args:
      data: devices on the axis that splits only the batch; -1: all remaining devices.
      fsdp: devices on the axis that splits batch and parameters; -1: all remaining devices.
      tensor: devices on the axis that splits only wide parameters; -1: all remaining devices. At
        most one of the three is -1.
      devices: the devices; None: all of the run.

    Raises:
      UserError: the axes do not cover the devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, n in sizes.items() if n == -1]
    product = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1 or product < 1 or count % product or (not free and product != count):
        request = " ".join(f"--config.mesh.{axis}={n}" for axis, n in sizes.items())
        raise UserError(
            f"{request} do not cover {count} devices; try --config.mesh.data=-1, the others 1"
        )
    shape = [count // product if n == -1 else n for n in sizes.values()]
    # A torus of 16 x 16 has no axis of 8: such an axis is a part of a physical one.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def with_mesh(mesh: Mesh, function: F) -> F:
    """Wraps `function` so that `shard_batch` and `replicate` know the mesh while it is traced."""

    @wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced  # pyright: ignore[reportReturnType] - `wraps` keeps the signature


def on_cpu() -> bool:
    """Whether the program that is traced is for CPUs; outside a mesh, those of the default."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return (device.device_kind if device else jax.default_backend()) == "cpu"


def shard_batch(x: jax.Array) -> jax.Array:
    """Constrains x [B, ...] to be sharded along its batch axis. No-op outside a mesh.

    XLA infers the sharding of activations. With split parameters, or rows taken by traced indices,
    it may choose to gather the batch and to compute all of it on every device. Networks call this
    function to prevent that.
    """
    current_mesh = jax.sharding.get_abstract_mesh()
    if current_mesh.empty or len(x) % batch_parts(current_mesh):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH))


def replicate(x: jax.Array) -> jax.Array:
    """Replicates x, so that indexing it in a loop costs one all-gather, not one per iteration."""
    on_mesh = not jax.sharding.get_abstract_mesh().empty
    return jax.lax.with_sharding_constraint(x, P()) if on_mesh else x


def partition_spec(path: str, shape: Sequence[int], mesh: Mesh) -> P:
    """Returns the sharding of the array with this path and shape, by the first match in `RULES`."""
    return next(rule for pattern, rule in RULES if re.search(pattern, path))(shape, mesh)


def shardings(shapes: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for every array of `shapes`, a tree of ShapeDtypeStructs."""

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, shapes)


def check_batch(key: str, batch_size: int, parts: int, what: str) -> None:
    """Raises `UserError` unless `parts` divides `batch_size`; `key`, `what`: for its message."""
    if batch_size < 1 or batch_size % parts:
        low = max(batch_size // parts, 1) * parts
        tries = f"{low}" if low > batch_size else f"{low} or {low + parts}"
        raise ConfigError(key, batch_size, f"must be a multiple of {parts} {what}", f"try {tries}")


def any_across_processes(here: bool) -> bool:
    """Whether `here` is true on any process; all processes wait for each other."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def shares_cached_programs(backend: str) -> bool:
    """Whether several processes may take programs from the compilation cache.

    A CPU program from the cache may run its collectives in another order than the other processes;
    then they wait for each other, or end (seen with jax 0.10.2). On GPUs the key of the cache
    contains the links of the process's own GPUs: with unequal links some processes load a program
    and others compile it, and the latter wait forever (google/jax issue 40940), unless jax shares
    the fingerprints of all processes.
    """
    if backend == "gpu":
        from jax._src import cache_key

        return hasattr(cache_key, "_shared_fingerprints")
    return backend != "cpu"
