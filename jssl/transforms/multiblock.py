"""I-JEPA's multi-block masks: target rectangles, and a context rectangle without their patches
(Assran et al. 2023, section 3; facebookresearch/ijepa src/masks/multiblock.py)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import Config, ConfigError
from jssl.ops import require_arrays
from jssl.transforms.masking import cover, mask_to_indices


class Blocks(NamedTuple):
    """The contexts and the targets of one batch.

    Attributes:
      context_ids: int32 [B, K], the patches of the contexts.
      context_valid: bool [B, K], False beyond the end of a short context.
      target_ids: int32 [B, targets, T], the patches of the targets.
      target_valid: bool [T], False beyond the size of this batch's targets.
    """

    context_ids: Array
    context_valid: Array
    target_ids: Array
    target_valid: Array

    def rows(self) -> tuple[Array, Array, Array]:
        """The arguments of the predictor, with one row for each target of each image.

        Returns:
          (context_ids int32 [B targets, K], target_ids int32 [B targets, T], valid bool
          [B targets, K + T]).
        """
        require_arrays(
            context_ids=(self.context_ids, "int [B, K]"),
            context_valid=(self.context_valid, "bool [B, K]"),
            target_ids=(self.target_ids, "int [B, targets, T]"),
            target_valid=(self.target_valid, "bool [T]"),
        )
        num_targets = self.target_ids.shape[1]
        context_ids = jnp.repeat(self.context_ids, num_targets, axis=0)
        context_valid = jnp.repeat(self.context_valid, num_targets, axis=0)
        size = len(self.target_valid)
        target_valid = jnp.broadcast_to(self.target_valid, (len(context_valid), size))
        target_ids = self.target_ids.reshape(-1, size)
        valid = jnp.concatenate([context_valid, target_valid], axis=1)
        return context_ids, target_ids, valid


def block_sampler(config: Config, grid: int, num_context: int) -> Callable[[Array, int], Blocks]:
    """f(rng, batch_size) -> `Blocks`.

    All targets of a batch have one size, and all contexts have one size. Each image has positions
    of its own.

    Args:
      config: the whole config.
      grid: patches along a side of an image.
      num_context: the number of patches to which a context is cut or padded.
    """
    target_sizes = block_sizes(grid, config.target_area, config.target_aspect)
    context_sizes = block_sizes(grid, config.context_area, (1.0, 1.0))
    longest = int(target_sizes.prod(axis=1).max())

    def sample(rng: Array, batch_size: int) -> Blocks:
        rng_target_size, rng_context_size, rng_target, rng_context = jax.random.split(rng, 4)
        target_size = jax.random.choice(rng_target_size, jnp.asarray(target_sizes))
        context_size = jax.random.choice(rng_context_size, jnp.asarray(context_sizes))
        u = jax.random.uniform(rng_target, (2, batch_size, config.num_targets))
        target_height, target_width = target_size
        targets = cover(u, target_height, target_width, grid)
        least = config.min_context_patches
        context = context_mask(rng_context, targets, grid, context_size, least)
        context_ids = mask_to_indices(context, num_context)
        context_valid = jnp.take_along_axis(context, context_ids, axis=1)
        target_ids = mask_to_indices(targets.reshape(-1, grid * grid), longest)
        target_ids = target_ids.reshape(batch_size, config.num_targets, longest)
        target_valid = jnp.arange(longest) < target_size.prod()
        return Blocks(context_ids, context_valid, target_ids, target_valid)

    return sample


def block_sizes(
    grid: int, share: tuple[float, float], aspect: tuple[float, float], points: int = 1024
) -> np.ndarray:
    """I-JEPA's sizes of a block, equally likely: int32 [points, 2] of (height, width) in patches.

    In the reference, one random number of [0, 1) gives both the share of all patches and the aspect
    (facebookresearch/ijepa src/masks/multiblock.py:55 to 72). Here the number takes `points` evenly
    spaced values. No side is as long as the grid.

    Args:
      grid: patches along a side of an image.
      share: the range of the block's share of all patches.
      aspect: the range of height / width.
      points: the number of sizes.
    """
    sizes = []
    for r in (np.arange(points) + 0.5) / points:
        area = int(grid * grid * (share[0] + r * (share[1] - share[0])))
        ratio = aspect[0] + r * (aspect[1] - aspect[0])
        sides = (round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio)))
        sizes.append([min(max(side, 1), max(grid - 1, 1)) for side in sides])
    return np.array(sizes, np.int32)


def context_mask(
    rng: Array, hidden: Array, grid: int, size: Array, least: int, tries: int = 20
) -> Array:
    """I-JEPA's contexts: bool [B, grid * grid], rectangles without the patches of the targets.

    A context must have more than `least` patches. Up to `tries` positions are tried. If none
    suffices, the constraint to avoid the targets is dropped, for one target after the other, the
    last target first (multiblock.py:74 to 110).

    Args:
      rng: a random key.
      hidden: bool [B, targets, grid * grid], the targets.
      grid: patches along a side of an image.
      size: int [2], height and width of all contexts.
      least: the largest number of patches that is too small.
      tries: the number of positions.
    """
    require_arrays(hidden=(hidden, f"bool [B, targets, {grid**2}]"), size=(size, "int [2]"))
    batch, targets, n = hidden.shape
    u = jax.random.uniform(rng, (2, batch, tries))
    height, width = size
    tried = cover(u, height, width, grid)
    covered = jnp.cumsum(hidden, axis=1) > 0  # by the first target, the first two, ...
    covered = jnp.concatenate([covered[:, ::-1], jnp.zeros((batch, 1, n), bool)], axis=1)
    counts = jnp.einsum("btn,bln->blt", tried.astype(jnp.float32), 1.0 - covered)
    first = (counts > least).reshape(batch, -1).argmax(1)  # 0 if no position suffices
    none_suffices = ~(counts > least).any((1, 2))
    level = jnp.where(none_suffices, targets, first // tries)

    def pick(x, i):
        return jnp.take_along_axis(x, i[:, None, None], axis=1)[:, 0]

    return pick(tried, first % tries) & ~pick(covered, level)


def check_blocks(config: Config, num_context: int) -> None:
    """Raises `UserError` if no context has more than ``config.min_context_patches`` patches."""
    if not 0 <= config.min_context_patches < num_context:
        raise ConfigError(
            "config.min_context_patches",
            config.min_context_patches,
            f"must be at least 0 and below the {num_context} patches of "
            f"config.context_fraction={config.context_fraction}",
            f"try {min(4, num_context - 1)}",
        )
