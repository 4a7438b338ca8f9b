"""Rotations by quarter turns as a task: exact, without interpolation."""

import jax.numpy as jnp
from jax import Array

from jssl.losses import cross_entropy
from jssl.ops import require_arrays


def quarter_turns(images: Array) -> Array:
    """Square images [B, H, H, C] -> [3B, H, H, C], turned by 90, 180 and 270 degrees.

    The turns are counterclockwise. Those of image i are the rows 3i, 3i + 1 and 3i + 2.
    """
    require_arrays(images=(images, "[B, H, H, C]"))
    turns = [jnp.rot90(images, turn, axes=(1, 2)) for turn in (1, 2, 3)]
    return jnp.stack(turns, axis=1).reshape(-1, *images.shape[1:])


def rotation_loss(upright: Array, turned: Array) -> tuple[Array, Array]:
    """The cross-entropy of the number of turns, and the share that is right; both float32 [].

    Args:
      upright: float [B, 4], logits of images without a turn.
      turned: float [3B, 4], logits of the rows of `quarter_turns`.
    """
    require_arrays(upright=(upright, "float [B, 4]"), turned=(turned, "float [T, 4]"))
    turns = jnp.tile(jnp.arange(1, 4), len(upright))
    answer = jnp.concatenate([jnp.zeros(len(upright), turns.dtype), turns])
    return cross_entropy(jnp.concatenate([upright, turned]), answer)
