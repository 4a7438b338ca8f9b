"""Random masks of the patches of an image."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jssl.ops import require_arrays


def random_masking(
    rng: Array, batch: int, patches: int, ratio: float
) -> tuple[Array, Array, Array]:
    """MAE's random masking (He et al. 2022, appendix A.1; models_mae.py `random_masking`).

    Each image keeps a uniform random subset of K = ``int(patches * (1 - ratio))`` patches, in
    random order.

    Returns:
      (keep_ids int32 [B, K], mask float32 [B, N], restore int32 [B, N]). The mask is 1 where a
      patch is masked. `restore` indexes the kept tokens followed by the mask tokens, and puts them
      back in the order of the image.
    """
    num_kept = int(patches * (1 - ratio))
    shuffled = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
    restore = jnp.argsort(shuffled, axis=1)
    return shuffled[:, :num_kept], (restore >= num_kept).astype(jnp.float32), restore


def grouped_mask(rng: Array, batch: int, grid: int, unit: int, ratio: float) -> Array:
    """Random squares of unit x unit patches (SimMIM, Xie et al. 2022, section 3.2).

    Args:
      rng: a random key.
      batch: the number B of images.
      grid: patches along a side of an image.
      unit: patches along a side of a square; it divides `grid`.
      ratio: the share of the squares that are masked (see `unit_count`).

    Returns:
      bool [B, grid * grid], True where a patch is masked.
    """
    side = grid // unit
    count = unit_count(ratio, side * side)
    hidden = lowest_k(jax.random.uniform(rng, (batch, side * side)), count)
    hidden = hidden.reshape(batch, side, side)
    return jnp.repeat(jnp.repeat(hidden, unit, axis=1), unit, axis=2).reshape(batch, -1)


def unit_count(ratio: float, units: int) -> int:
    """The number of the `units` squares that SimMIM masks: ratio * units, rounded up
    (microsoft/SimMIM data/data_simmim.py:35).

    A product that exceeds a whole number only by a rounding error is not rounded up: 30 / 49 of 49
    are 30.
    """
    return math.ceil(ratio * units - 1e-9)


def block_mask(
    rng: Array,
    batch: int,
    grid: int,
    count: int | Array,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    blocks: int = 32,
) -> Array:
    """Masks exactly `count` patches, in rectangles.

    Rectangles are drawn one after another until they cover `count` patches. The last one is cut
    along its rows or its columns, from any side. BEiT (Bao et al. 2022, algorithm 1) draws each
    rectangle no larger than the number of patches that are left to mask, and tries again; it may
    mask fewer patches.

    Args:
      rng: a random key.
      batch: the number B of images.
      grid: patches along a side of an image.
      count: int, or int [B].
      area: the range of a rectangle's area, in patches.
      aspect: the range of height / width.
      blocks: the number of rectangles that are drawn. If they cover fewer than `count` patches, the
        other patches follow in the order in which the last rectangle is cut.

    Returns:
      bool [B, grid * grid], True where a patch is masked.
    """
    rng_box, rng_side = jax.random.split(rng)
    inside = random_rectangles(rng_box, (batch, blocks), grid, area=area, aspect=aspect)
    first_cover = jnp.where(inside.any(1), inside.argmax(1), blocks)  # a patch's first rectangle
    row_major = jnp.arange(grid * grid)
    column_major = row_major.reshape(grid, grid).T.ravel()
    orders = [row_major, row_major[::-1], column_major, column_major[::-1]]
    sides = jnp.stack(orders) / grid**2
    return lowest_k(first_cover + sides[jax.random.randint(rng_side, (batch,), 0, 4)], count)


def beit_mask(
    rng: Array, batch: int, grid: int, count: int | Array, least: float, most: int
) -> Array:
    """`block_mask` with BEiT's rectangles: `least` to `most` patches, aspect .3 to 1 / .3."""
    area = (least, float(most))
    aspect = (0.3, 1 / 0.3)
    return block_mask(rng, batch, grid, count, area=area, aspect=aspect)


def random_rectangles(
    rng: Array,
    shape: tuple[int, ...],
    grid: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Array:
    """Rectangles of patches at random positions: bool [*shape, grid * grid].

    `area` (in patches) and `aspect` (height / width) are ranges. Sides are rounded, and clipped to
    1 to `grid`.
    """
    u = jax.random.uniform(rng, (4, *shape))
    size = area[0] + u[0] * (area[1] - area[0])
    ratio = jnp.exp(jnp.log(aspect[0]) + u[1] * (jnp.log(aspect[1]) - jnp.log(aspect[0])))
    height, width = (jnp.clip(jnp.round(x), 1, grid) for x in side_lengths(size, ratio))
    return cover(u[2:], height, width, grid)


def cover(u: Array, height: Array, width: Array, grid: int) -> Array:
    """The patches that rectangles cover: bool [..., grid * grid].

    Args:
      u: float [2, ...], uniform numbers of [0, 1), which give the row and the column.
      height, width: [] or [...], in patches.
      grid: patches along a side of an image.
    """
    require_arrays(
        u=(u, "float [2, ...]"), height=(height, "[...] or []"), width=(width, "[...] or []")
    )
    top, left = (jnp.floor(x * (grid + 1 - n)) for x, n in zip(u, (height, width), strict=True))
    position = jnp.arange(grid)

    def is_within(start, length):
        return (position >= start[..., None]) & (position < (start + length)[..., None])

    rows = is_within(top, height)
    columns = is_within(left, width)
    return (rows[..., :, None] & columns[..., None, :]).reshape(*u.shape[1:], grid * grid)


def side_lengths(area: Array, aspect: Array) -> tuple[Array, Array]:
    """(height, width) of a rectangle of this area and this ratio height / width."""
    return jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)


def lowest_k(order: Array, count: int | Array) -> Array:
    """bool [B, N], True at the `count` (int, or int [B]) smallest elements of each row of `order`
    [B, N]."""
    require_arrays(order=(order, "[B, N]"), count=(count, "int [B] or []"))
    rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
    return rank < jnp.reshape(count, (-1, 1))


def mask_to_indices(mask: Array, count: int) -> Array:
    """int32 [B, count]: the positions at which `mask` bool [B, N] is True, in order.

    A row with more of them is cut; a row with fewer is padded with positions at which it is False.
    """
    require_arrays(mask=(mask, "bool [B, N]"))
    return jnp.argsort(~mask, axis=1, stable=True)[:, :count].astype(jnp.int32)
