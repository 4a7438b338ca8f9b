"""Image augmentation for self-supervised learning: batched, on the device, inside the train step.

Crop + resize, flip, colour jitter, grayscale, blur, solarize, normalise, in this order (BYOL, Grill
et al. 2020, appendix B). `sample_params` draws all that is random; one of two modes applies it:

exact  clips to [0, 1] after each colour operation; hue is torchvision's HSV rotation. As jitter has
       an order per example, hue is computed in each of the 4 places and kept in one.
fused  crop, resize, flip and blur are two batched matmuls, and colour, in the same order, is one
       affine map per image, clipped once. Blur then comes before colour (they commute but for
       clipping and HSV), and hue is a rotation about the gray axis, near to HSV's, but linear.
Mean |fused - exact| over [0, 1] with jitter .4 .4 .4 .1 and blur on every image: 0.027 for the very
colourful images of the test, 0.011 for CIFAR-10; without hue 0.007 (the test).

With dtype="bfloat16" the matmuls of fused take bfloat16 inputs and accumulate in float32; all else
is float32. One channel has no saturation, hue, grayscale; any number but 1 and 3 no jitter,
grayscale, solarize. Inside, an image is [B, H, C, W]: no matmul then needs a transposition.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import UserError, values
from jssl.config.values import Length, NonNegative, Pixels, Positive, Range, Share
from jssl.transforms import color
from jssl.transforms.color import JITTER

Dtype = Literal["float32", "bfloat16"]
Area = Annotated[float, Range(1e-4, 1)]  # share of the valid area
Areas = Annotated[tuple[Area, Area], Length(2, ordered=True)]
Factor = Annotated[float, Range(1e-4)]
Factors = Annotated[tuple[Factor, Factor], Length(2, ordered=True)]
Hue = Annotated[float, Range(0, 0.5)]
Mean = Annotated[tuple[float, ...], Length(1)]
Std = Annotated[tuple[Positive, ...], Length(1)]
Zoom = Annotated[float, Range(0.01, 1)]
_warn_once = functools.cache(logging.warning)


def view(
    *,
    mode: Literal["exact", "fused"],
    size: Pixels,
    crop_scale: Areas,
    crop_ratio: Factors,
    flip_prob: Share,
    jitter_prob: Share,
    brightness: NonNegative,
    contrast: NonNegative,
    saturation: NonNegative,
    hue: Hue,
    gray_prob: Share,
    blur_prob: Share,
    blur_sigma: Factors,
    solarize_prob: Share,
    mean: Mean,
    std: Std,
    dtype: Dtype,
    blur_kernel: Literal["whole", "tenth"] = "whole",
) -> Callable:
    """One random view: f(rng, image uint8 [B, H, W, C], valid int32 [B, 2]) -> [B, size, size, C].

    uint16 images are as good: white is the largest number of each. `valid` is height and width, and
    an image whose height exceeds H lies on its side (`jssl.data.canvas`); its view stands
    upright. flip_prob, jitter_prob, gray_prob, blur_prob, solarize_prob (128 of 255 and more are
    inverted): probability per example. crop_scale, crop_ratio: ranges of area / valid area and of
    width / height (RandomResizedCrop). brightness, contrast, saturation, hue: strengths s of
    torchvision's ColorJitter, a factor in [max(0, 1-s), 1+s], a shift in [-s, s] of the hue circle;
    0.0 here, or as a probability, removes the operation. blur_sigma: range in output pixels
    (SimCLR, Chen et al. 2020, appendix A), cut off as `blur_radius` says by blur_kernel, "whole" or
    "tenth". mean, std: of [0, 1], one or one per channel. Raises UserError naming `augment.<key>`.
    """
    recipe = _checked(view, **locals())  # stays first: the arguments are all that is local
    apply = apply_exact if mode == "exact" else apply_fused

    @jax.named_scope("augment")
    def augment(rng, image, valid):
        return apply(recipe, image, sample_params(recipe, rng, valid) | turned(image, valid))

    return augment


def center(*, size: Pixels, crop: Zoom, mean: Mean, std: Std, dtype: Dtype) -> Callable:
    """The view of evaluation: f(image uint8 [B, H, W, C], valid [B, 2]) -> [B, size, size, C].

    torchvision's Resize(size / crop), CenterCrop(size): the shorter side becomes round(size / crop)
    pixels, the longer one is rounded down, and the crop begins at a whole pixel of the result.
    """
    recipe = _checked(center, **locals())
    resized = round(size / crop)

    def weights(length, shortest, stored):
        whole = resized * length // shortest
        scale = length / whole
        start = jnp.round((whole - size) / 2) * scale
        return resize_weights(start, size * scale, 0 * length, length, stored, size)

    @jax.named_scope("augment")
    def crop_and_resize(image, valid):
        turn = turned(image, valid).get("turned")
        lying = valid if turn is None else jnp.where(turn[:, None], valid[:, ::-1], valid)
        shortest = valid.min(axis=1)
        both = zip(lying.T, image.shape[1:3], strict=True)
        planes = jnp.swapaxes(image, 2, 3).astype(jnp.float32)
        x = _resample(planes, *(weights(n, shortest, stored) for n, stored in both))
        return _finish(_upright(x / full(image), turn), recipe)

    return crop_and_resize


def full(image: Array) -> int:
    """White: the largest number of the dtype of an image."""
    return jnp.iinfo(image.dtype).max


def turned(image: Array, valid: Array) -> dict[str, Array]:
    """{"turned": bool [B]}, which of the images lie on their side; {} if none can."""
    height, width = image.shape[1:3]
    return {"turned": valid[:, 0] > height} if width > height else {}


def _upright(x, turn):
    """[B, n, C, n], some of them lying on their side -> all upright."""
    if turn is None:
        return x
    return jnp.where(turn[:, None, None, None], jnp.swapaxes(x, 1, 3), x)


def sample_params(recipe: SimpleNamespace, rng: Array, valid: Array) -> dict[str, Array]:
    """All random values of one view of each example, each [B]; valid is int32 [B, 2].

    top, left, height, width: whole pixels (float32), inside the valid part. flip, gray, blur,
    solarize: bool. brightness, contrast, saturation, hue: 1, 1, 1, 0 without jitter. sigma: pixels.
    order [B, 4]: the place of each operation of `JITTER` in the example's order, 0 first.
    """
    u = jax.random.uniform(rng, (valid.shape[0], 33))  # one call: XLA is long to compile each
    params = _draw_crop(u[:, 11:], valid, recipe.crop_scale, recipe.crop_ratio)
    for column, name in enumerate(("flip", "gray", "blur", "solarize")):
        params[name] = u[:, column] < getattr(recipe, f"{name}_prob")
    for column, name in enumerate(JITTER, 5):
        strength = getattr(recipe, name)
        neutral = float(name != "hue")
        low = -strength if name == "hue" else max(0.0, 1 - strength)
        value = low + u[:, column] * (neutral + strength - low)
        params[name] = jnp.where(u[:, 4] < recipe.jitter_prob, value, neutral)
    low, high = recipe.blur_sigma
    order = jnp.array([*itertools.permutations(range(4))])[(24 * u[:, 10]).astype(int)]
    return params | {"sigma": low + u[:, 9] * (high - low), "order": order}


def _draw_crop(u, valid, scale, ratio):
    """torchvision's RandomResizedCrop.get_params: the first of 10 tries that fits, else centred."""
    full = jnp.maximum(valid, 1).astype(jnp.float32)
    area = (scale[0] + u[:, :10] * (scale[1] - scale[0])) * full.prod(axis=1, keepdims=True)
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** u[:, 10:20]
    tries = jnp.round(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=2)))  # [B, 10, 2]
    fits = jnp.all((tries >= 1) & (tries <= full[:, None]), axis=2)
    tried = jnp.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    place = jnp.minimum(jnp.floor(u[:, 20:] * (full - tried + 1)), full - tried)
    largest = jnp.round(full[:, ::-1] * jnp.array([1 / ratio[0], ratio[1]])).clip(1, full)
    found = fits.any(axis=1)[:, None]
    height, width = jnp.where(found, tried, largest).T
    top, left = jnp.where(found, place, (full - largest) // 2).T
    return {"top": top, "left": left, "height": height, "width": width}


def apply_exact(recipe: SimpleNamespace, image: Array, params: dict[str, Array]) -> Array:
    """uint8 [B, H, W, C] -> [B, size, size, C], operation by operation, clipping after each."""
    active = _active(recipe, image.shape[3])
    planes = jnp.swapaxes(image, 2, 3)
    x = _resample(planes.astype(jnp.float32), *_crop_weights(recipe, image, params))
    x = _upright(x / full(image), params.get("turned"))

    def average(gray):
        return gray.mean(axis=(1, 3), keepdims=True)

    x = color.jitter(x, params, active, color.rotate_hsv, average, lambda x: x.clip(0, 1))
    if recipe.blur_prob:
        blur = blur_matrix(params["sigma"], params["blur"], recipe.size, blur_radius(recipe))
        x = _resample(x, blur, blur)
    return _finish(x, recipe, params, active)


def apply_fused(recipe: SimpleNamespace, image: Array, params: dict[str, Array]) -> Array:
    """uint8 [B, H, W, C] -> [B, size, size, C] by two matmuls and one affine map of the colours.

    The map is found by colouring the C unit colours, black, and the mean, on which contrast turns.
    """
    active = _active(recipe, image.shape[3])
    channels = image.shape[3]
    exact = recipe.dtype if image.dtype == jnp.uint8 else "float32"  # 0..255 in bfloat16 too
    planes = jnp.swapaxes(image, 2, 3).astype(exact)
    rows, columns = crop = _crop_weights(recipe, image, params)
    if recipe.blur_prob:
        blur = blur_matrix(params["sigma"], params["blur"], recipe.size, blur_radius(recipe))
        rows, columns = (_matmul("bpo,boi->bpi", blur, w, recipe.dtype) for w in crop)
    x = _upright(_resample(planes, rows, columns) / full(image), params.get("turned"))
    if set(active) - {"solarize"}:
        probe = jnp.tile(jnp.eye(channels, channels + 1), (len(image), 1, 1, 1))
        if "contrast" in active:  # the mean before the blur, as in exact, from the pixels
            h, w = (weight.mean(axis=1) for weight in crop)
            mean = jnp.sum(planes * h[:, :, None, None] * w[:, None, None], axis=(1, 3))
            mean = mean / full(image)
            probe = jnp.concatenate([probe, mean[:, None, :, None]], axis=3)
        probe = color.jitter(
            probe, params, active, color.rotate_gray, lambda x: x[..., -1:], lambda x: x
        )
        offset = probe[..., channels, None]
        mixed = (x[:, :, c, None] * (probe[..., c, None] - offset) for c in range(channels))
        x = (sum(mixed) + offset).clip(0, 1)
    return _finish(x, recipe, params, active)


def _crop_weights(recipe, image, params):
    """The crop, resize and flip: rows [B, size, H] and columns [B, size, W], as they are stored."""
    upright = [params[name] for name in ("top", "height", "left", "width")]
    top, height, left, width = upright
    turn = params.get("turned")
    if turn is not None:  # the rows that are stored are the image's columns
        lying = [*upright[2:], *upright[:2]]
        both = zip(lying, upright, strict=True)
        top, height, left, width = (jnp.where(turn, one, other) for one, other in both)
    rows = resize_weights(top, height, top, top + height, image.shape[1], recipe.size)
    columns = resize_weights(left, width, left, left + width, image.shape[2], recipe.size)
    if recipe.flip_prob:
        flip = params["flip"]

        def mirror(on, weights):
            return jnp.where(on[:, None, None], weights[:, ::-1], weights)

        if turn is not None:
            rows = mirror(flip & turn, rows)
            flip = flip & ~turn
        columns = mirror(flip, columns)
    return rows, columns


def resize_weights(start, extent, low, high, length: int, size: int) -> Array:
    """Antialiased bilinear resize of [start, start + extent) as weights: [B] -> [B, size, length].

    Pillow's `precompute_coeffs` (Resample.c), triangle filter, of the pixels [low, high) alone.
    """
    scale = extent[:, None, None] / size
    pixel = jnp.arange(length)
    middle = start[:, None, None] + (jnp.arange(size)[:, None] + 0.5) * scale
    weight = jnp.maximum(0, 1 - jnp.abs(pixel + 0.5 - middle) / jnp.maximum(scale, 1))
    weight *= (pixel >= low[:, None, None]) & (pixel < high[:, None, None])
    return weight / weight.sum(axis=2, keepdims=True)


def blur_radius(recipe: SimpleNamespace) -> int:
    """How many pixels to each side a blur reaches.

    "tenth"  a tenth of the image in all, and 1 at least: SimCLR and BYOL (data_util.py: 23 of 224)
    "whole"  that, or three times the largest sigma if it is more: Pillow's GaussianBlur, which
             most others use, is not cut off at all
    """
    tenth = max(1, recipe.size // 20)
    if getattr(recipe, "blur_kernel", "whole") == "tenth":
        return tenth
    return max(tenth, math.ceil(3 * recipe.blur_sigma[1]))


def blur_matrix(sigma: Array, on: Array, size: int, radius: int) -> Array:
    """Gaussian blur along one axis: sigma [B] in pixels, on bool [B] -> [B, size, size].

    Edges reflect, as in torchvision's GaussianBlur (SimCLR's zeros darken the border); the radius
    is less than `size`, so that no pixel is reflected twice.
    """
    i = np.arange(size)[:, None]
    j = np.arange(size)
    radius = min(radius, max(1, size - 1))
    mirrors = ((i - j, j >= 0), (i + j, j > 0), (2 * size - 2 - i - j, j < size - 1))

    def kernel(distance):
        return jnp.exp(-0.5 * (distance / sigma[:, None, None]) ** 2)

    matrix = sum(kernel(d) * (keep & (abs(d) <= radius)) for d, keep in mirrors)
    return jnp.where(on[:, None, None], matrix / matrix.sum(2, keepdims=True), jnp.eye(size))


def _resample(x, rows, columns):
    """[B, h, C, w], rows [B, o, h], columns [B, p, w] -> float32 [B, o, C, p]."""
    return _matmul("bocw,bpw->bocp", _matmul("boh,bhcw->bocw", rows, x, x.dtype), columns, x.dtype)


def _matmul(spec, a, b, dtype):
    """To float32 from inputs in dtype; those of float32 are multiplied as such, not as TF32."""
    how = {"precision": "highest" if dtype == "float32" else None}
    a = a.astype(dtype)
    b = b.astype(dtype)
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32, **how)


def _finish(x, recipe, params=None, active=()):
    """Solarize and normalise: [B, h, C, w] -> [B, h, w, C]."""
    if "solarize" in active:  # at 0.5, between 127 and 128 of 255, as in BYOL
        x = jnp.where(params["solarize"][:, None, None, None] & (x >= 0.5), 1 - x, x)
    for key, value in {"mean": recipe.mean, "std": recipe.std}.items():
        _need(len(value) in (1, x.shape[2]), key, value, f"1 or {x.shape[2]} numbers", (0.5,))
    x = (x - jnp.array(recipe.mean)[:, None]) / jnp.array(recipe.std)[:, None]
    return jnp.swapaxes(x, 2, 3).astype(recipe.dtype)


def _active(recipe, channels):
    """The colour operations of this program: those asked for that such images have."""
    asked = [name for name in JITTER if recipe.jitter_prob and getattr(recipe, name)]
    asked += [name for name in ("gray", "solarize") if getattr(recipe, f"{name}_prob")]
    have = {1: ("brightness", "contrast", "solarize"), 3: asked}.get(channels, ())
    if dropped := [name for name in asked if name not in have]:
        _warn_once(f"augment: {channels}-channel images get no {', '.join(dropped)}")
    return [name for name in asked if name in have]


def _checked(function, **settings):
    values.check_all("augment", settings, values.kinds_of(function))
    return SimpleNamespace(**settings)


def _need(right, key, value, rule, cure):
    if not right:
        raise UserError(f"augment.{key}={value!r} is wrong because it must be {rule}; try {cure}")
