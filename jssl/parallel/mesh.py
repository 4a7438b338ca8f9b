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
StateAxis = Annotated[int, Range(1, INT, also=(-1, 0))]
MAX_STATE_SHARDS = 16  # a TPU gathers shards of at least 8 rows; 1 / 16 of an update is little
TILE = (128, 16)  # of bfloat16 on a TPU, from the last dimension; XLA sends parts of tiles as sums
MIN_SHARD_SIZE = 2**16  # elements; below this a gather costs more than the memory that it saves
AnyMesh = Mesh | AbstractMesh
F = TypeVar("F", bound=Callable[..., Any])


def _replicated(shape: Sequence[int], mesh: AnyMesh) -> P:
    """Keeps an array whole on every device."""
    return P()


def shard_largest_dim(shape: Sequence[int], mesh: AnyMesh, wide: int | None = None) -> P:
    """Splits an array over `tensor` and `fsdp`, where they divide its dimensions.

    Arrays below `MIN_SHARD_SIZE` elements stay whole.

    Args:
      shape: of the array.
      mesh: the device mesh.
      wide: the dimension for `tensor`, counted from the end (-1 is the last); None: not split over
        `tensor`. `fsdp` splits the largest other dimension of which the parts are whole tiles; if
        there is none, the largest.
    """
    spec: list[str | None] = [None] * len(shape)
    if np.prod(shape) < MIN_SHARD_SIZE:
        return P()
    n = mesh.shape["tensor"]
    if wide is not None and -wide <= len(shape) and n > 1 and shape[wide] % n == 0:
        spec[wide] = "tensor"
    n = mesh.shape["fsdp"]
    fits = [i for i in np.argsort(shape)[::-1] if shape[i] % n == 0 and spec[i] is None]
    tiles = dict(zip(range(len(shape))[::-1], TILE, strict=False))
    whole = [i for i in fits if shape[i] // n % tiles.get(i, 1) == 0]
    if n > 1 and fits:
        spec[(whole or fits)[0]] = "fsdp"
    return P(*spec) if any(spec) else P()


def shard_rows(shape: Sequence[int], mesh: AnyMesh) -> P:
    """Splits the rows of a queue or bank over all devices, if their number divides the rows."""
    return P(AXES) if shape and shape[0] % mesh.size == 0 and mesh.size > 1 else P()


# First match wins. A path looks like "params/encoder/conv1/kernel", "opt_state/1/0/trace/...".
# Transformers as Megatron-LM splits them (Shoeybi et al. 2019, section 3): the first product of a
# pair by its outputs, the second by its inputs, so that one sum over `tensor` ends each branch.
WEIGHTS = r"^(params|opt_state|buffers/(teacher|frozen|ema))/"
RULES = (
    (WEIGHTS + r".*\b(qkv|fc1|gate)/kernel$", partial(shard_largest_dim, wide=-1)),
    (WEIGHTS + r".*\b(proj|fc2)/kernel$", partial(shard_largest_dim, wide=-2)),
    # Rows of token ids, and of prototypes.
    (WEIGHTS + r".*\b(tokens/embedding|direction)$", partial(shard_largest_dim, wide=-2)),
    (WEIGHTS, shard_largest_dim),
    (r"^buffers/(queue|bank)\b", shard_rows),
    (r"", _replicated),
)


def make_mesh(
    *, data: Axis, fsdp: StateAxis, tensor: Axis = 1, devices: list[Any] | None = None
) -> Mesh:
    """Makes the mesh of all devices, or of `devices`.

    Args:
      data: devices on the axis that splits only the batch; -1: all remaining devices.
      fsdp: devices on the axis that splits batch and state; -1: all remaining; 0: by device. With
        0 it is 1, but on TPUs the largest number up to 16 that divides half of the devices.
      tensor: devices on the axis that splits only wide parameters; -1: all remaining devices. At
        most one of the three is -1.
      devices: the devices; None: all of the run.

    Raises:
      UserError: the axes do not cover the devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = list(axis_sizes(len(devices), devices[0].platform, data, fsdp, tensor).values())
    # A torus of 16 x 16 has no axis of 8: such an axis is a part of a physical one.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_sizes(count: int, platform: str, data: int, fsdp: int, tensor: int) -> dict[str, int]:
    """Resolves -1 and 0 for `count` devices of a platform, such as "tpu"; see `make_mesh`.

    Raises:
      UserError: the axes do not cover the devices.
    """
    fsdp = state_shards(count, platform, data, tensor) if fsdp == 0 else fsdp
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, n in sizes.items() if n == -1]
    product = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1 or product < 1 or count % product or (not free and product != count):
        request = " ".join(f"--config.mesh.{axis}={n}" for axis, n in sizes.items())
        raise UserError(
            f"{request} do not cover {count} devices; try --config.mesh.data=-1, the others 1"
        )
    return {axis: count // product if n == -1 else n for axis, n in sizes.items()}


def state_shards(count: int, platform: str, data: int, tensor: int) -> int:
    """The size of the axis `fsdp` where the config leaves it open.

    Each device of the axis updates a part of the parameters, which saves most of the memory traffic
    of an optimizer (Xu et al. 2020, arXiv 2004.13336), and sends as many bytes as if it updated
    all. On GPUs that is not measured yet. The axis `data` keeps at least two devices: without it
    XLA computes each gradient in as many pieces as there are shards, and moves more bytes.
    """
    if data != -1:
        return 1 if tensor == -1 else -1
    if platform != "tpu" or tensor == -1:
        return 1
    rest = max(count // tensor, 1)
    return max((n for n in range(1, MAX_STATE_SHARDS + 1) if rest % (2 * n) == 0), default=1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_parts(mesh: AnyMesh) -> int:
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
    return _device_kind() == "cpu"


def on_tpu() -> bool:
    """Whether the program that is traced is for TPUs; outside a mesh, those of the default."""
    return _device_kind().lower().startswith("tpu")


def _device_kind() -> str:
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return device.device_kind if device else jax.default_backend()


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


def with_whole_kernel(
    product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Computes ``product(x, kernel)``, linear in both, with a kernel that is split over `fsdp`.

    The kernel is gathered in the dtype of the product, and its gradient is summed in parts. XLA by
    itself gathers before it converts, and once for each use. Between the passes only the part is
    kept; in a program without loops XLA keeps the whole kernel, and gathers once. No-op without
    that axis, and with `tensor`, which splits the products.
    """
    here = jax.sharding.get_abstract_mesh()
    if here.empty or here.shape["fsdp"] == 1 or here.shape["tensor"] > 1:
        return product(x, kernel)
    return _with_whole_kernel(product, shard_largest_dim(kernel.shape, here), x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_whole_kernel(product, spec, x, kernel):
    return product(x, _gathered(kernel, spec))


def _forward(product, spec, x, kernel):
    return product(x, _gathered(kernel, spec)), (x, kernel)


def _backward(product, spec, kept, grad):
    x, kernel = kept
    whole = _gathered(kernel, spec)
    (grad_x,) = jax.linear_transpose(lambda x: product(x, whole), x)(grad)
    (grad_kernel,) = jax.linear_transpose(lambda kernel: product(x, kernel), whole)(grad)
    return grad_x, jax.lax.with_sharding_constraint(grad_kernel, spec)


_with_whole_kernel.defvjp(_forward, _backward)


def _gathered(kernel: jax.Array, spec: P) -> jax.Array:
    part = jax.lax.with_sharding_constraint(kernel, spec)  # else XLA gathers what it converts from
    return jax.lax.with_sharding_constraint(part, P())


def replicate(x: jax.Array) -> jax.Array:
    """Replicates x, so that indexing it in a loop costs one all-gather, not one per iteration."""
    on_mesh = not jax.sharding.get_abstract_mesh().empty
    return jax.lax.with_sharding_constraint(x, P()) if on_mesh else x


def partition_spec(path: str, shape: Sequence[int], mesh: AnyMesh) -> P:
    """Returns the sharding of the array with this path and shape, by the first match in `RULES`."""
    return next(rule for pattern, rule in RULES if re.search(pattern, path))(shape, mesh)


def placed(shapes: Any, mesh: AnyMesh) -> Any:
    """Returns the ShapeDtypeStructs of `shapes` with their shardings on a mesh."""
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        shardings(shapes, mesh),
    )


def shardings(shapes: Any, mesh: AnyMesh) -> Any:
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
