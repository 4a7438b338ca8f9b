"""Damage that an autoencoder repairs: noise, and holes.

Images are float32 [B, H, W, C]. Each example has its own random key.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import ConfigError
from jssl.ops import require_arrays
from jssl.transforms.masking import cover, lowest_k

BLOCKS = 8  # rectangles that are drawn for a hole of "blocks"


def gaussian(rng: Array, image: Array, strength: float) -> Array:
    """Adds noise from N(0, strength^2) to each value of an image [H, W, C]."""
    return image + strength * jax.random.normal(rng, image.shape)


def masking(rng: Array, image: Array, strength: float) -> Array:
    """Sets a share `strength` of the values of an image [H, W, C] to 0."""
    return jnp.where(jax.random.uniform(rng, image.shape) < strength, 0.0, image)


def salt_pepper(rng: Array, image: Array, strength: float) -> Array:
    """Sets a share `strength` of the values of an image [H, W, C] to 0 or 1, with equal chance."""
    u = jax.random.uniform(rng, image.shape)
    return jnp.where(u < strength, (u < strength / 2).astype(image.dtype), image)


NOISES = {"gaussian": gaussian, "masking": masking, "salt_pepper": salt_pepper}


def add_noise(rng: Array, images: Array, noise: str, strength: float) -> Array:
    """Corrupts each value of the images by itself.

    Source: Vincent et al. 2010 (JMLR 11), section 3.3.

    Args:
      rng: a random key.
      images: float32 [B, H, W, C], pixels in 0..1.
      noise: a key of `NOISES`.
      strength: the standard deviation of "gaussian"; the share of the values that "masking" or
        "salt_pepper" replaces.

    Returns:
      float32 [B, H, W, C]. Gaussian noise may leave 0..1.
    """
    require_arrays(images=(images, "float [B, H, W, C]"))
    keys = jax.random.split(rng, len(images))
    return jax.vmap(NOISES[noise], (0, 0, None))(keys, images, strength)


def check_strength(noise: str, strength: float) -> None:
    """Raises `UserError` if the strength is a share above 1."""
    if noise != "gaussian" and strength > 1:
        raise ConfigError("config.noise_strength", strength, f"a share for {noise!r}", "try 0.25")


def hole_fn(mask: str, size: int, ratio: float, overlap: int) -> Callable[[Array, int], Array]:
    """f(rng, batch size B) -> bool [B, size, size], True in the hole of each image.

    Args:
      mask: "center": a square, the same in all images. "blocks": rectangles at random places.
        "pixels": single pixels.
      size: height and width of the images, in pixels.
      ratio: the share of the pixels in the hole: the exact one for "pixels", the largest one for
        "blocks". For "center" it is the share of the hole with its band.
      overlap: width of the band around the hole, in pixels (`band_weight`).

    Raises:
      UserError: the hole has no pixels, or all.
    """
    if mask == "center":
        side = round(size * ratio**0.5) - 2 * overlap
        _check_hole(0 < side <= size, ratio, size, overlap)
        hole = center_hole(size, side)
        return lambda rng, batch: jnp.broadcast_to(hole, (batch, size, size))
    if mask == "blocks":
        _check_hole(size * ratio**0.5 >= 4, ratio, size, overlap)
        return lambda rng, batch: jax.vmap(lambda key: block_hole(key, size, ratio))(
            jax.random.split(rng, batch)
        )
    count = round(ratio * size**2)
    _check_hole(0 < count < size**2, ratio, size, overlap)

    def pixels(rng: Array, batch: int) -> Array:
        keys = jax.random.split(rng, batch)
        order = jax.vmap(lambda key: jax.random.uniform(key, (size**2,)))(keys)
        return lowest_k(order, count).reshape(batch, size, size)

    return pixels


def _check_hole(fits: bool, ratio: float, size: int, overlap: int) -> None:
    if not fits:
        problem = f"with --config.overlap={overlap}, no hole in a view of {size} pixels has it"
        raise ConfigError("config.mask_ratio", ratio, problem, "try 0.25, and an overlap of 0")


def center_hole(size: int, side: int) -> Array:
    """A square of `side` pixels in the center, bool [size, size]."""
    start = (size - side) // 2
    position = jnp.arange(size)
    is_within = (position >= start) & (position < start + side)
    return is_within[:, None] & is_within


def block_hole(rng: Array, size: int, ratio: float) -> Array:
    """Rectangles that may overlap and cover at most `ratio` of an image, bool [size, size].

    `BLOCKS` rectangles are drawn. Their sides are a fourth to a half of those of a square of the
    largest area. One that would cover too much is left out. Source: Pathak et al. 2016,
    section 3.3, which states no sizes.
    """
    largest = size * ratio**0.5

    def add(hole: Array, key: Array) -> tuple[Array, None]:
        u = jax.random.uniform(key, (4,))
        height, width = jnp.floor(largest * (1 + u[:2]) / 4)
        larger = hole | cover(u[2:], height, width, size)
        return jnp.where(larger.mean() <= ratio, larger, hole), None

    hole = jnp.zeros(size * size, bool)
    return lax.scan(add, hole, jax.random.split(rng, BLOCKS))[0].reshape(size, size)


def band_weight(hole: Array, overlap: int, weight: float) -> Array:
    """The weight of each pixel in a loss: 1 in the hole, `weight` in the band around it, else 0.

    Args:
      hole: bool [B, H, W].
      overlap: width of the band, in pixels.
      weight: of the band.

    Returns:
      float32 [B, H, W].
    """
    require_arrays(hole=(hole, "bool [B, H, W]"))
    side = 2 * overlap + 1
    near = lax.reduce_window(hole, False, lax.bitwise_or, (1, side, side), (1, 1, 1), "SAME")
    return jnp.where(hole, 1.0, jnp.where(near, weight, 0.0))
