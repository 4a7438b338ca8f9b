"""Color jitter and grayscale of planes [B, H, C, W], for `jssl.transforms.augment`."""

from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.ops import require_arrays

JITTER = ("brightness", "contrast", "saturation", "hue")  # the columns of params["order"]
LUMA = {1: (1.0,), 3: (0.299, 0.587, 0.114)}  # ITU-R BT.601, as torchvision's rgb_to_grayscale


def jitter(
    x: Array,
    params: dict[str, Array],
    active: Collection[str],
    rotate: Callable[[Array, Array], Array],
    average: Callable[[Array], Array],
    clip: Callable[[Array], Array],
) -> Array:
    """torchvision's ColorJitter and RandomGrayscale.

    Three of the four operations of ColorJitter are a blend of the image with another one.

    Args:
      x: float32 [B, h, C, w].
      params: the random values of `jssl.transforms.augment.sample_params`.
      active: the operations to apply: elements of `JITTER`, and "gray".
      rotate: (image, shift [B, 1, 1, 1] of the hue circle) -> image.
      average: gray image [B, h, 1, w] -> its mean, which broadcasts to it; for the contrast.
      clip: is applied after each blend.

    Returns:
      float32 [B, h, C, w].
    """
    require_arrays(x=(x, "float [B, h, C, w]"), order=(params["order"], "int [B, 4]"))

    def gray(x):
        luma: Any = sum(w * x[:, :, c, None] for c, w in enumerate(LUMA[x.shape[2]]))
        return luma

    def per_image(value):
        return value[:, None, None, None]

    ops = [name for name in JITTER if name in active]
    order = params["order"][:, [JITTER.index(name) for name in ops]]
    order = jnp.sum(order[:, :, None] > order[:, None], axis=2)  # among the active operations
    for step in range(len(ops)):
        is_due = {name: per_image(order[:, i] == step) for i, name in enumerate(ops)}
        factor = sum(is_due[name] * per_image(params[name]) for name in ops if name != "hue")
        other = is_due["contrast"] * average(gray(x)) if "contrast" in ops else 0
        other += is_due["saturation"] * gray(x) if "saturation" in ops else 0
        blend = clip(factor * x + (1 - factor) * other)
        rotated = rotate(x, per_image(params["hue"])) if "hue" in ops else x
        x = jnp.where(is_due.get("hue", False), rotated, blend)
    return jnp.where(per_image(params["gray"]), gray(x), x) if "gray" in active else x


def rotate_hsv(x: Array, shift: Array) -> Array:
    """Shifts the hue of x [B, h, 3, w] in [0, 1], as torchvision's adjust_hue.

    shift: [B, 1, 1, 1], a fraction of the hue circle.
    """
    require_arrays(x=(x, "float [B, h, 3, w]"), shift=(shift, "float [B, 1, 1, 1]"))
    red, green, blue = jnp.split(x, 3, axis=2)
    value = x.max(axis=2, keepdims=True)
    chroma = value - x.min(axis=2, keepdims=True)
    unit = jnp.where(chroma > 0, chroma, 1)
    # `value == red` would fail: XLA may compute red twice, with different rounding.
    hue = jnp.where(green > blue, 2 + (blue - red) / unit, 4 + (red - green) / unit)
    hue = jnp.where(red >= jnp.maximum(green, blue), (green - blue) / unit, hue) + 6 * shift
    sector = (np.array([5, 3, 1])[:, None] + hue) % 6  # of red, green, blue
    return value - chroma * jnp.minimum(sector, 4 - sector).clip(0, 1)


def rotate_gray(x: Array, shift: Array) -> Array:
    """Shifts the hue of x [B, h, 3, w] by a rotation of RGB space about its gray axis.

    The rotation is linear in x (Rodrigues' formula). Gray does not change. A third of the circle
    maps red to green and green to blue, as in HSV. Between these angles the result is nearer to
    HSV's than that of a rotation in YIQ.

    shift: [B, 1, 1, 1], a fraction of the hue circle.
    """
    require_arrays(x=(x, "float [B, h, 3, w]"), shift=(shift, "float [B, 1, 1, 1]"))
    cos = jnp.cos(2 * jnp.pi * shift)
    sin = jnp.sin(2 * jnp.pi * shift) / 3**0.5
    before = jnp.roll(x, 1, axis=2)
    after = jnp.roll(x, -1, axis=2)
    return cos * x + (1 - cos) * x.mean(axis=2, keepdims=True) + sin * (before - after)
