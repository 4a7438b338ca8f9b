"""States for checkpoints, and files of checkpoints that are damaged."""

import pathlib

import jax
import jax.numpy as jnp
from conftest import make_mesh

from jssl.core import TrainState
from jssl.parallel import mesh


def state_of(value: float, width: int = 8, step: int | None = None):
    """A state whose arrays all hold `value`, on one device; but for noise, which Orbax can neither
    compress nor keep in its index, as weights are."""
    devices = make_mesh(1)
    noise = jax.random.normal(jax.random.key(int(value)), (100, 100))
    buffers = {"seen": jnp.float32(value), "noise": noise}
    at = jnp.int32(value if step is None else step)
    tree = TrainState(at, {"encoder": jnp.full((width,), value)}, {}, buffers)
    shapes = jax.eval_shape(lambda: tree)
    return jax.device_put(tree, mesh.shardings(shapes, devices))


def shapes_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def flip(path: pathlib.Path, bits: int = 0xFF):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= bits
    path.write_bytes(data)


def largest(folder: pathlib.Path) -> pathlib.Path:
    """The file that holds the arrays."""
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
