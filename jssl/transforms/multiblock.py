"""I-JEPA's multi-block masks: some target rectangles, and a context rectangle without them
(Assran et al. 2023, section 3; facebookresearch/ijepa src/masks/multiblock.py)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl.config import UserError
from jssl.transforms.masking import cover, mask_to_indices


class Asked(NamedTuple):
    """What one batch is asked: where int32 [B, K] and seen bool [B, K] of the contexts, False
    beyond the end of a short one; at int32 [B, targets, T] of the targets and asked bool [T], False
    beyond the end of the batch's size."""

    where: jax.Array
    seen: jax.Array
    at: jax.Array
    asked: jax.Array

    def rows(self):
        """(where, at, seen of both) with a row for each target, as the predictor takes them."""
        blocks = self.at.shape[1]
        where, seen = (jnp.repeat(x, blocks, axis=0) for x in (self.where, self.seen))
        asked = jnp.broadcast_to(self.asked, (len(seen), len(self.asked)))
        at = self.at.reshape(-1, len(self.asked))
        return where, at, jnp.concatenate([seen, asked], axis=1)


def draws(config, grid: int, kept: int) -> Callable[[jax.Array, int], Asked]:
    """(rng, batch) -> `Asked`: one size of targets and one of contexts, places of each image."""
    target_sizes = block_sizes(grid, config.target_area, config.target_aspect)
    context_sizes = block_sizes(grid, config.context_area, (1.0, 1.0))
    longest = int(target_sizes.prod(axis=1).max())

    def draw(rng, batch: int) -> Asked:
        rng_size, rng_square, rng_target, rng_context = jax.random.split(rng, 4)
        size = jax.random.choice(rng_size, jnp.asarray(target_sizes))
        square = jax.random.choice(rng_square, jnp.asarray(context_sizes))
        u = jax.random.uniform(rng_target, (2, batch, config.targets))
        hidden = cover(u, *size, grid)
        context = context_mask(rng_context, hidden, grid, square, config.context_min)
        where = mask_to_indices(context, kept)
        seen = jnp.take_along_axis(context, where, axis=1)
        at = mask_to_indices(hidden.reshape(-1, grid * grid), longest)
        asked = jnp.arange(longest) < size.prod()
        return Asked(where, seen, at.reshape(batch, config.targets, longest), asked)

    return draw


def block_sizes(
    grid: int, share: tuple[float, float], aspect: tuple[float, float], points: int = 1024
) -> np.ndarray:
    """I-JEPA's sizes of a block, equally likely: int32 [points, 2] of (height, width) in patches.

    One random number of [0, 1), here `points` of them evenly spaced, gives both the share of all
    patches and the aspect, height / width, between their bounds (facebookresearch/ijepa
    src/masks/multiblock.py:55 to 72). No side is as long as the grid.
    """
    sizes = []
    for r in (np.arange(points) + 0.5) / points:
        area = int(grid * grid * (share[0] + r * (share[1] - share[0])))
        ratio = aspect[0] + r * (aspect[1] - aspect[0])
        sides = (round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio)))
        sizes.append([min(max(side, 1), max(grid - 1, 1)) for side in sides])
    return np.array(sizes, np.int32)


def context_mask(rng, hidden: jax.Array, grid: int, size: jax.Array, least: int, tries: int = 20):
    """I-JEPA's contexts: bool [B, grid * grid], rectangles without the patches of the targets.

    A context of `least` patches or fewer is drawn anew, up to `tries` times; if none is larger, one
    target after the other, the last one first, may overlap it (multiblock.py:74 to 110).

    Args:
      rng: the random key.
      hidden: bool [B, targets, grid * grid], the targets.
      grid: patches along a side.
      size: int [2], height and width of all contexts.
      least: the number of patches that is too few.
      tries: places that are tried.
    """
    batch, targets, n = hidden.shape
    tried = cover(jax.random.uniform(rng, (2, batch, tries)), *size, grid)
    covered = jnp.cumsum(hidden, axis=1) > 0  # by the first target, the first two, ...
    covered = jnp.concatenate([covered[:, ::-1], jnp.zeros((batch, 1, n), bool)], axis=1)
    counts = jnp.einsum("btn,bln->blt", tried.astype(jnp.float32), 1.0 - covered)
    found = (counts > least).reshape(batch, -1).argmax(1)  # the first; 0 if there is none
    none = ~(counts > least).any((1, 2))
    level = jnp.where(none, targets, found // tries)
    pick = lambda x, i: jnp.take_along_axis(x, i[:, None, None], axis=1)[:, 0]
    return pick(tried, found % tries) & ~pick(covered, level)


def check(config, kept: int) -> None:
    """`UserError` for targets, contexts or ranges that cannot be."""
    if config.targets < 1:
        raise UserError(f"config.targets={config.targets} must be at least 1; try 4")
    for key, most in (("target_area", 1), ("context_area", 1), ("target_aspect", math.inf)):
        first, last = config[key]
        if not 0 < first <= last <= most:
            limit = "above 0" if most > 1 else "above 0 and at most 1"
            raise UserError(f"config.{key}={config[key]} must be two numbers {limit}, in order")
    if not 0 <= config.context_min < kept:
        raise UserError(
            f"config.context_min={config.context_min} must be at least 0 and below the {kept} "
            f"patches of config.context={config.context}; try {min(4, kept - 1)}"
        )
