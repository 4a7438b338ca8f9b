"""Which patches a masked model sees."""

import math

import jax
import jax.numpy as jnp


def random_masking(rng, batch: int, patches: int, ratio: float):
    """MAE's random masking (He et al. 2022, appendix A.1; models_mae.py `random_masking`).

    Each image keeps a uniform random subset of ``int(patches * (1 - ratio))`` patches, in random
    order. Returns (keep int32 [B, K], mask float32 [B, N] with 1 where hidden, restore int32
    [B, N]): kept tokens followed by mask tokens, indexed by `restore`, are in image order again.
    """
    kept = int(patches * (1 - ratio))
    shuffled = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
    restore = jnp.argsort(shuffled, axis=1)
    return shuffled[:, :kept], (restore >= kept).astype(jnp.float32), restore


def grouped_mask(rng, batch: int, grid: int, unit: int, ratio: float):
    """bool [B, grid * grid], True where hidden: squares of unit x unit patches, drawn at random,
    exactly `unit_count` of them (SimMIM, Xie et al. 2022, section 3.2)."""
    side = grid // unit
    count = unit_count(ratio, side * side)
    hidden = lowest_k(jax.random.uniform(rng, (batch, side * side)), count).reshape(
        batch, side, side
    )
    return jnp.repeat(jnp.repeat(hidden, unit, axis=1), unit, axis=2).reshape(batch, -1)


def unit_count(ratio: float, units: int) -> int:
    """How many of `units` squares SimMIM hides: `ratio` of them, rounded up (microsoft/SimMIM
    data/data_simmim.py:35), where a product is not above a whole number by rounding error alone
    (30 / 49 of 49 are 30)."""
    return math.ceil(ratio * units - 1e-9)


def block_mask(rng, batch: int, grid: int, count, *, area: tuple, aspect: tuple, blocks=32):
    """bool [B, grid * grid], True at exactly `count` (int, or int [B]) patches, in rectangles.

    Rectangles of `area` (range, in patches) and `aspect` (range of height / width) are laid one
    over another until `count` patches are covered; the last one is cut along its rows or columns,
    from any side. BEiT (Bao et al. 2022, algorithm 1) draws each no larger than what is left to
    hide, and tries again; its count may fall short.
    """
    rng_box, rng_side = jax.random.split(rng)
    inside = random_rectangles(rng_box, (batch, blocks), grid, area=area, aspect=aspect)
    covers = jnp.where(inside.any(1), inside.argmax(1), blocks)  # the first rectangle over a patch
    across = jnp.arange(grid * grid)
    down = across.reshape(grid, grid).T.ravel()
    sides = jnp.stack([across, across[::-1], down, down[::-1]]) / grid**2
    return lowest_k(covers + sides[jax.random.randint(rng_side, (batch,), 0, 4)], count)


def beit_mask(rng, batch: int, grid: int, count, least: float, most: int):
    """`block_mask` with BEiT's rectangles: `least` to `most` patches, aspect .3 to 1 / .3."""
    area = (least, float(most))
    aspect = (0.3, 1 / 0.3)
    return block_mask(rng, batch, grid, count, area=area, aspect=aspect)


def random_rectangles(rng, shape: tuple, grid: int, *, area: tuple, aspect: tuple):
    """bool [*shape, grid * grid]: rectangles of patches at random places. `area` in patches and
    `aspect` (height / width) are ranges; sides are rounded, and at least 1 and at most `grid`."""
    u = jax.random.uniform(rng, (4, *shape))
    size = area[0] + u[0] * (area[1] - area[0])
    ratio = jnp.exp(jnp.log(aspect[0]) + u[1] * (jnp.log(aspect[1]) - jnp.log(aspect[0])))
    height, width = (jnp.clip(jnp.round(x), 1, grid) for x in side_lengths(size, ratio))
    return cover(u[2:], height, width, grid)


def cover(u, height, width, grid: int):
    """bool [..., grid * grid], True under rectangles of `height` x `width` patches, whose places in
    the grid are uniform in u [2, ...], numbers of [0, 1)."""
    top, left = (jnp.floor(x * (grid + 1 - n)) for x, n in zip(u, (height, width), strict=True))
    at = jnp.arange(grid)

    def within(start, n):
        return (at >= start[..., None]) & (at < (start + n)[..., None])

    rows = within(top, height)
    columns = within(left, width)
    return (rows[..., :, None] & columns[..., None, :]).reshape(*u.shape[1:], grid * grid)


def side_lengths(area, aspect):
    """(height, width) of a rectangle."""
    return jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)


def lowest_k(order, count: int):
    """bool, True at the `count` (int, or int [B]) smallest of each row of `order` [B, N]."""
    rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
    return rank < jnp.reshape(count, (-1, 1))


def mask_to_indices(mask, count: int):
    """int32 [B, count]: where `mask` [B, N] is True, in order; padded with places where it is not
    if there are fewer, cut if there are more."""
    return jnp.argsort(~mask, axis=1, stable=True)[:, :count].astype(jnp.int32)
