"""Colour jitter and grayscale of planes [B, H, C, W]: the arithmetic behind
`jssl.transforms.augment`."""

import jax.numpy as jnp
import numpy as np
from jax import Array

JITTER = ("brightness", "contrast", "saturation", "hue")  # the columns of params["order"]
LUMA = {1: (1.0,), 3: (0.299, 0.587, 0.114)}  # ITU-R BT.601, as torchvision's rgb_to_grayscale


def jitter(x, params, active, rotate, average, clip):
    """torchvision's ColorJitter, three of four a blend, and RandomGrayscale, of [B, h, C, w]."""

    def gray(x):
        return sum(w * x[:, :, c, None] for c, w in enumerate(LUMA[x.shape[2]]))

    def per_image(value):
        return value[:, None, None, None]

    ops = [name for name in JITTER if name in active]
    place = params["order"][:, [JITTER.index(name) for name in ops]]
    place = jnp.sum(place[:, :, None] > place[:, None], axis=2)  # among those that are active
    for step in range(len(ops)):
        now = {name: per_image(place[:, i] == step) for i, name in enumerate(ops)}
        factor = sum(now[name] * per_image(params[name]) for name in ops if name != "hue")
        other = now["contrast"] * average(gray(x)) if "contrast" in ops else 0
        other += now["saturation"] * gray(x) if "saturation" in ops else 0
        blend = clip(factor * x + (1 - factor) * other)
        turn = rotate(x, per_image(params["hue"])) if "hue" in ops else x
        x = jnp.where(now.get("hue", False), turn, blend)
    return jnp.where(per_image(params["gray"]), gray(x), x) if "gray" in active else x


def rotate_hsv(x: Array, shift: Array) -> Array:
    """Hue of [B, h, 3, w] in [0, 1] by shift [B, 1, 1, 1] of the circle: torchvision adjust_hue."""
    red, green, blue = jnp.split(x, 3, axis=2)
    value = x.max(axis=2, keepdims=True)
    chroma = value - x.min(axis=2, keepdims=True)
    unit = jnp.where(chroma > 0, chroma, 1)
    # Never value == red: XLA may compute red twice, rounded differently, and no channel is equal.
    hue = jnp.where(green > blue, 2 + (blue - red) / unit, 4 + (red - green) / unit)
    hue = jnp.where(red >= jnp.maximum(green, blue), (green - blue) / unit, hue) + 6 * shift
    place = (np.array([5, 3, 1])[:, None] + hue) % 6  # of red, green, blue
    return value - chroma * jnp.minimum(place, 4 - place).clip(0, 1)


def rotate_gray(x: Array, shift: Array) -> Array:
    """Hue of [B, h, 3, w] by shift [B, 1, 1, 1] of the circle, linear in x: a turn of RGB space
    about its gray axis (Rodrigues' formula). Gray stays, and a third of the circle takes red to
    green to blue, as in HSV; between those it is nearer to HSV's hue than a turn in YIQ."""
    cos = jnp.cos(2 * jnp.pi * shift)
    sin = jnp.sin(2 * jnp.pi * shift) / 3**0.5
    before = jnp.roll(x, 1, axis=2)
    after = jnp.roll(x, -1, axis=2)
    return cos * x + (1 - cos) * x.mean(axis=2, keepdims=True) + sin * (before - after)
