"""What `jssl.transforms.augment` must compute, from the definitions, one image at a time in float64
NumPy.

Images are [H, W, C] in 0..1. Nothing here is vectorised or shared with the implementation.
"""

import colorsys
import math

import numpy as np
from scipy.linalg import expm

WEIGHTS = {1: [1.0], 3: [0.299, 0.587, 0.114]}  # ITU-R BT.601-7, 2.5.1


def gray(x):
    level = sum(w * x[..., c] for c, w in enumerate(WEIGHTS[x.shape[2]]))
    return np.repeat(level[..., None], x.shape[2], axis=2)


def brightness(x, factor):
    return np.clip(factor * x, 0, 1)


def contrast(x, factor):
    return np.clip(factor * x + (1 - factor) * gray(x).mean(), 0, 1)


def saturation(x, factor):
    return np.clip(factor * x + (1 - factor) * gray(x), 0, 1)


def hue(x, shift):
    out = np.empty_like(x)
    for row, column in np.ndindex(x.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*x[row, column])
        out[row, column] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return out


def hue_gray_axis(x, shift):
    """A turn of RGB space about the unit vector of gray: the exponential of its cross product."""
    n = 3**-0.5
    return x @ expm(2 * math.pi * shift * np.array([[0, -n, n], [n, 0, -n], [-n, n, 0]])).T


def blur(x, sigma, radius=6):
    """A 2-D convolution with mirrored edges, 2 radius + 1 taps a side (6: three sigmas of 2)."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    out = np.zeros_like(x)
    for (i, j), weight in np.ndenumerate(kernel):
        out += weight * padded[i : i + x.shape[0], j : j + x.shape[1]]
    return out


def solarize(x):
    return np.where(np.round(255 * x) >= 128, 1 - x, x)


def resize(x, size):
    """Antialiased bilinear: each output is a triangle-weighted mean of the pixels around it."""
    for axis in (0, 1):
        x = np.moveaxis(x, axis, 0)
        ratio = len(x) / size
        reach = max(ratio, 1.0)
        lines = []
        for o in range(size):
            middle = (o + 0.5) * ratio
            weights = [max(0.0, 1 - abs(k + 0.5 - middle) / reach) for k in range(len(x))]
            lines.append(np.tensordot(np.array(weights) / sum(weights), x, axes=1))
        x = np.moveaxis(np.array(lines), 0, axis)
    return x


def augment(image, params, size):
    """One uint8 [H, W, C] image through the whole chain; params of scalars, order [4]."""
    top, left = int(params["top"]), int(params["left"])
    part = image[top : top + int(params["height"]), left : left + int(params["width"])] / 255
    x = resize(part, size)
    if params["flip"]:
        x = x[:, ::-1]
    color = x.shape[2] == 3
    names = ["brightness", "contrast", "saturation", "hue"]
    for name in sorted(names, key=lambda n: params["order"][names.index(n)]):
        if color or name in ("brightness", "contrast"):
            x = globals()[name](x, params[name])
    if params["gray"] and color:
        x = gray(x)
    if params["blur"]:
        x = blur(x, params["sigma"])
    return solarize(x) if params["solarize"] else x
