"""What pretext tasks do to images: exact rotations, tiles, colors, shifted windows.

Every function treats each image by itself, with its own random key.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config, ConfigError
from jssl.ops import patchify, require_arrays, unpatchify


def rotations(images: Array) -> Array:
    """The four rotations of square images: [B, H, H, C] -> [4B, H, H, C].

    Row 4i + k is image i, turned counterclockwise by 90 k degrees. Only transposes and flips are
    used: an interpolation would leave traces of the angle (Gidaris et al. 2018, section 2.2).
    """
    require_arrays(images=(images, "[B, H, H, C]"))
    turned = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return jnp.stack(turned, axis=1).reshape(-1, *images.shape[1:])


def tile_cutter(config: Config, grid: int) -> Callable[[Array, Array], Array]:
    """f(rng, views) -> tiles: `random_tiles` of ``config.tile`` pixels.

    Raises:
      UserError: grid x grid tiles do not fit into a view.
    """
    largest = config.augment.size // grid
    if config.tile > largest:
        raise ConfigError(
            "config.tile",
            config.tile,
            f"{grid} x {grid} tiles do not fit into --config.augment.size={config.augment.size}",
            f"try {max(1, 3 * largest // 4)}",
        )
    return partial(random_tiles, grid=grid, tile=config.tile)


def random_tiles(rng: Array, images: Array, grid: int, tile: int) -> Array:
    """Tiles of images in reading order: [B, H, H, C] -> [B, grid * grid, tile, tile, C].

    An image is cut into grid x grid cells of H // grid pixels. A tile lies at a random place of its
    cell, so the gap between two tiles is random. Otherwise edges that continue would solve a puzzle
    (Noroozi and Favaro 2016).
    """
    require_arrays(images=(images, "[B, H, H, C]"))
    cell = images.shape[1] // grid
    whole = images[:, : grid * cell, : grid * cell]
    cells = patchify(whole, cell).reshape(len(images), grid * grid, cell, cell, -1)

    def tiles_of_image(key, cells):
        corners = jax.random.randint(key, (len(cells), 2), 0, cell - tile + 1)
        return jax.vmap(lambda image, corner: crop(image, corner, tile))(cells, corners)

    return jax.vmap(tiles_of_image)(jax.random.split(rng, len(images)), cells)


def crop(image: Array, corner: Array, side: int) -> Array:
    """The square of `side` pixels at `corner`, int [2], its row and its column:
    [H, W, C] -> [side, side, C]."""
    return lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, image.shape[2]))


def normalize_tiles(tiles: Array, eps: float = 1e-4) -> Array:
    """Each channel of each tile [B, T, t, t, C] by its own mean and deviation.

    Otherwise the brightness of a tile would tell its neighbors (Noroozi and Favaro 2016). `eps` is
    added to the variance, for tiles of one color.
    """
    mean = tiles.mean((2, 3), keepdims=True)
    return (tiles - mean) / jnp.sqrt(tiles.var((2, 3), keepdims=True) + eps)


def take_tiles(tiles: Array, order: Array) -> Array:
    """Tiles in another order: tiles [B, T, ...], order int [B, T]; tile j is tile order[j]."""
    require_arrays(tiles=(tiles, "[B, T, h, w, C]"), order=(order, "int [B, T]"))
    return jnp.take_along_axis(tiles, order[..., None, None, None], axis=1)


def join_tiles(tiles: Array) -> Array:
    """One image of all tiles, without gaps: [B, g * g, t, t, C] -> [B, g * t, g * t, C]."""
    b, count, side, _, channels = tiles.shape
    return unpatchify(tiles.reshape(b, count, -1), side, channels)


def drop_colors(rng: Array, tiles: Array) -> Array:
    """Keeps one random channel of each tile [B, T, t, t, C]; the others become noise.

    The noise is Gaussian, with a hundredth of the deviation of the channel that is kept (Doersch et
    al. 2015, section 3.1). Without it, a network finds the place of a tile by the chromatic
    aberration of the lens.
    """
    require_arrays(tiles=(tiles, "float [B, T, h, w, C]"))
    channels = tiles.shape[-1]

    def drop(key, tiles):
        rng_channel, rng_noise = jax.random.split(key)
        index = jax.random.randint(rng_channel, (len(tiles), 1, 1, 1), 0, channels)
        kept = jnp.arange(channels) == index
        deviation = (tiles.std((1, 2), keepdims=True) * kept).sum(-1, keepdims=True)
        noise = 0.01 * deviation * jax.random.normal(rng_noise, tiles.shape)
        return jnp.where(kept, tiles, noise)

    return jax.vmap(drop)(jax.random.split(rng, len(tiles)), tiles)


def project_colors(images: Array) -> Array:
    """Removes the axis from green to magenta of RGB images [..., 3].

    The axis is a = (-1, 2, -1): x - a (a x) / (a a) (Doersch et al. 2015, section 3.1).
    """
    require_arrays(images=(images, "float [..., 3]"))
    axis = jnp.array([-1.0, 2.0, -1.0])
    length = (images * axis).sum(-1, keepdims=True) / 6
    return images - length * axis


def shifted_windows(
    rng: Array, images: Array, window: int, max_shift: int
) -> tuple[Array, Array, Array]:
    """Two windows of each image [B, H, H, C], of which the second is shifted by an offset.

    The offset is uniform, then the place of the first window is uniform among those for which both
    windows lie inside the image. So H is at least window + max_shift.

    Returns:
      (first [B, w, w, C], second [B, w, w, C], offset int32 [B, 2]); w = `window`. The offset has
      -max_shift to max_shift rows and columns.
    """
    require_arrays(images=(images, "[B, H, H, C]"))
    room = images.shape[1] - window

    def windows(key, image):
        rng_offset, rng_place = jax.random.split(key)
        offset = jax.random.randint(rng_offset, (2,), -max_shift, max_shift + 1)
        low = jnp.maximum(0, -offset)
        high = room - jnp.maximum(0, offset)
        place = jax.random.randint(rng_place, (2,), low, high + 1)
        return crop(image, place, window), crop(image, place + offset, window), offset

    return jax.vmap(windows)(jax.random.split(rng, len(images)), images)


def seen_part(offset: Array, window: int) -> Array:
    """The pixels of the second of two windows that the first one shows too, bool [B, w, w].

    offset: int [B, 2], of `shifted_windows`.
    """
    require_arrays(offset=(offset, "int [B, 2]"))
    place = jnp.arange(window) + offset[..., None]  # in the first window, [B, 2, w]
    inside = (place >= 0) & (place < window)
    return inside[:, 0, :, None] & inside[:, 1, None, :]
