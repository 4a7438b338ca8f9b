"""Image augmentation for self-supervised learning: batched, on the device, inside the train step.

Crop and resize, flip, color jitter, grayscale, blur, solarize, normalize, in this order (BYOL,
Grill et al. 2020, appendix B). `sample_params` draws all random values. One of two modes applies
them:

exact  It clips to [0, 1] after each color operation. Hue is torchvision's HSV rotation. Jitter has
       an order per example, so hue is computed at each of the 4 positions and used at one.
fused  Crop, resize, flip and blur are two batched matmuls. The color operations, in the same order,
       are one affine map per image, clipped once. Blur comes before color (they commute except for
       clipping and HSV). Hue is a rotation about the gray axis, which is near HSV's and is linear.
Mean |fused - exact| over [0, 1] with jitter .4 .4 .4 .1 and blur on every image: 0.027 for the very
colorful images of the test, 0.011 for CIFAR-10; without hue 0.007 (the test).

With dtype="bfloat16" the matmuls of fused take bfloat16 inputs and accumulate in float32; all other
arithmetic is float32. Images of one channel get no saturation, hue or grayscale. Images of any
number of channels but 1 and 3 get no jitter, grayscale or solarize. Inside this module an image is
[B, H, C, W], so that no matmul needs a transposition.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import ConfigError, values
from jssl.config.values import Length, NonNegative, Pixels, Positive, Range, Share
from jssl.ops import require_arrays
from jssl.transforms import color
from jssl.transforms.color import JITTER

Dtype = Literal["float32", "bfloat16"]
Area = Annotated[float, Range(1e-4, 1)]  # as a share of the valid area
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
) -> Callable[[Array, Array, Array], Array]:
    """One random view: f(rng, image uint8 [B, H, W, C], valid int32 [B, 2]) -> [B, size, size, C].

    Images may also be uint16; white is the largest number of the dtype. `valid` is the height and
    the width of each image in its row. An image whose height exceeds H is stored on its side
    (`jssl.data.canvas`); its view is upright.

    Args:
      mode: "exact" follows torchvision, "fused" is faster and nearly equal. See the module.
      size: side of the view, in pixels.
      crop_scale: range of the crop's area, as a share of the image (RandomResizedCrop).
      crop_ratio: range of the crop's width / height (RandomResizedCrop).
      flip_prob: probability of a horizontal flip; 0: off.
      jitter_prob: probability of jitter of brightness, contrast, saturation and hue; 0: off.
      brightness: strength s of its jitter, a factor in [max(0, 1 - s), 1 + s]; 0: off.
      contrast: strength s of its jitter, a factor in [max(0, 1 - s), 1 + s]; 0: off.
      saturation: strength s of its jitter, a factor in [max(0, 1 - s), 1 + s]; 0: off.
      hue: strength s of its jitter, a shift in [-s, s] of the hue circle; 0: off.
      gray_prob: probability of conversion to gray; 0: off.
      blur_prob: probability of Gaussian blur; 0: off.
      blur_sigma: range of the blur's standard deviation, in pixels of the view. Source: SimCLR
        (Chen et al. 2020), appendix A.
      solarize_prob: probability of solarization: values from 128 of 255 are inverted; 0: off.
      mean: mean that is subtracted from pixels in [0, 1]; one number, or one per channel.
      std: deviation by which the pixels are then divided; one number, or one per channel.
      dtype: of the view, and of the matmuls of "fused".
      blur_kernel: span of the blur: "whole" (3 deviations) or "tenth" (of the view). See
        `blur_radius`.

    Raises:
      UserError: a value is wrong; the message names `augment.<key>`.
    """
    recipe = _checked(view, **locals())  # keep it first: locals() must hold only the arguments
    apply = apply_exact if mode == "exact" else apply_fused

    @jax.named_scope("augment")
    def augment(rng, image, valid):
        return apply(recipe, image, sample_params(recipe, rng, valid) | turned(image, valid))

    return augment


def center(
    *, size: Pixels, crop: Zoom, mean: Mean, std: Std, dtype: Dtype
) -> Callable[[Array, Array], Array]:
    """The view of evaluation: f(image uint8 [B, H, W, C], valid [B, 2]) -> [B, size, size, C].

    It is torchvision's Resize(size / crop), CenterCrop(size). The shorter side becomes
    round(size / crop) pixels, the longer side is rounded down, and the crop begins at a whole pixel
    of the result.

    Args:
      size: pixels of a side of the view.
      crop: size of the view / shorter side of the resized image.
      mean, std, dtype: as in `view`.
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
    """The value of white: the largest number of the image's dtype."""
    return jnp.iinfo(image.dtype).max


def turned(image: Array, valid: Array) -> dict[str, Array]:
    """{"turned": bool [B]}, True for images that are stored on their side.

    It is {} if the shape of the batch allows none. image: [B, H, W, C]; valid: int32 [B, 2].
    """
    require_arrays(image=(image, "uint [B, H, W, C]"), valid=(valid, "int [B, 2]"))
    height, width = image.shape[1:3]
    return {"turned": valid[:, 0] > height} if width > height else {}


def _upright(x, turn):
    """Images [B, n, C, n], those that `turn` marks on their side -> all upright."""
    if turn is None:
        return x
    return jnp.where(turn[:, None, None, None], jnp.swapaxes(x, 1, 3), x)


def sample_params(recipe: SimpleNamespace, rng: Array, valid: Array) -> dict[str, Array]:
    """Draws all random values of one view of each example, each [B].

    Args:
      recipe: the arguments of `view`.
      rng: a random key.
      valid: int32 [B, 2], height and width of the images.

    Returns:
      top, left, height, width: float32, whole pixels, inside the valid part. flip, gray, blur,
      solarize: bool. brightness, contrast, saturation, hue: float32; 1, 1, 1, 0 without jitter.
      sigma: float32, in pixels. order int32 [B, 4]: the position of each operation of `JITTER` in
      the example's order, from 0.
    """
    require_arrays(valid=(valid, "int [B, 2]"))
    u = jax.random.uniform(rng, (valid.shape[0], 33))  # one call: each takes XLA long to compile
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
    """torchvision's RandomResizedCrop.get_params: the first of 10 tries that fits, or a center."""
    full = jnp.maximum(valid, 1).astype(jnp.float32)
    area = (scale[0] + u[:, :10] * (scale[1] - scale[0])) * full.prod(axis=1, keepdims=True)
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** u[:, 10:20]
    tries = jnp.round(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=2)))  # [B, 10, 2]
    fits = jnp.all((tries >= 1) & (tries <= full[:, None]), axis=2)
    tried = jnp.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    corner = jnp.minimum(jnp.floor(u[:, 20:] * (full - tried + 1)), full - tried)
    largest = jnp.round(full[:, ::-1] * jnp.array([1 / ratio[0], ratio[1]])).clip(1, full)
    any_fits = fits.any(axis=1)[:, None]
    height, width = jnp.where(any_fits, tried, largest).T
    top, left = jnp.where(any_fits, corner, (full - largest) // 2).T
    return {"top": top, "left": left, "height": height, "width": width}


def apply_exact(recipe: SimpleNamespace, image: Array, params: dict[str, Array]) -> Array:
    """The view in mode "exact": image uint8 [B, H, W, C] -> [B, size, size, C].

    The operations are applied one by one, with clipping after each. recipe: the arguments of
    `view`. params: of `sample_params` and `turned`.
    """
    require_arrays(image=(image, "uint [B, H, W, C]"), order=(params["order"], "int [B, 4]"))
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
    """The view in mode "fused": image uint8 [B, H, W, C] -> [B, size, size, C].

    It takes two matmuls and one affine map of the colors. The images of the C unit colors and of
    black determine the map. Contrast also needs the mean color of the image. recipe: the arguments
    of `view`. params: of `sample_params` and `turned`.
    """
    require_arrays(image=(image, "uint [B, H, W, C]"), order=(params["order"], "int [B, 4]"))
    active = _active(recipe, image.shape[3])
    channels = image.shape[3]
    exact_dtype = recipe.dtype if image.dtype == jnp.uint8 else "float32"  # bfloat16 has 0..255
    planes = jnp.swapaxes(image, 2, 3).astype(exact_dtype)
    rows, columns = crop = _crop_weights(recipe, image, params)
    if recipe.blur_prob:
        blur = blur_matrix(params["sigma"], params["blur"], recipe.size, blur_radius(recipe))
        rows, columns = (_matmul("bpo,boi->bpi", blur, w, recipe.dtype) for w in crop)
    x = _upright(_resample(planes, rows, columns) / full(image), params.get("turned"))
    if set(active) - {"solarize"}:
        probe = jnp.tile(jnp.eye(channels, channels + 1), (len(image), 1, 1, 1))
        if "contrast" in active:  # the mean of the pixels before the blur, as in "exact"
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
    """Crop, resize and flip as matrices for the stored rows and columns of the images.

    Returns (rows [B, size, H], columns [B, size, W]).
    """
    upright = [params[name] for name in ("top", "height", "left", "width")]
    top, height, left, width = upright
    turn = params.get("turned")
    if turn is not None:  # the stored rows are the columns of such an image
        lying = [*upright[2:], *upright[:2]]
        pairs = zip(lying, upright, strict=True)
        top, height, left, width = (jnp.where(turn, *pair) for pair in pairs)
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


def resize_weights(
    start: Array, extent: Array, low: Array, high: Array, length: int, size: int
) -> Array:
    """Antialiased bilinear resize along one axis as a matrix: float32 [B, size, length].

    It is `precompute_coeffs` of Pillow (Resample.c) with the triangle filter.

    Args:
      start, extent: [B], the interval [start, start + extent) that is resized, in pixels.
      low, high: [B]; only pixels in [low, high) have weights.
      length: pixels of the input.
      size: pixels of the output.
    """
    require_arrays(
        start=(start, "[B]"), extent=(extent, "[B]"), low=(low, "[B]"), high=(high, "[B]")
    )
    scale = extent[:, None, None] / size
    pixel = jnp.arange(length)
    middle = start[:, None, None] + (jnp.arange(size)[:, None] + 0.5) * scale
    weight = jnp.maximum(0, 1 - jnp.abs(pixel + 0.5 - middle) / jnp.maximum(scale, 1))
    weight *= (pixel >= low[:, None, None]) & (pixel < high[:, None, None])
    return weight / weight.sum(axis=2, keepdims=True)


def blur_radius(recipe: SimpleNamespace) -> int:
    """The radius of the blur kernel in pixels, by ``recipe.blur_kernel``.

    "tenth"  The kernel spans a tenth of the image, and its radius is at least 1: SimCLR and BYOL
             (data_util.py: 23 of 224).
    "whole"  The radius is at least three times the largest sigma. Pillow's GaussianBlur, which most
             other methods use, is not cut off at all.
    """
    tenth = max(1, recipe.size // 20)
    if getattr(recipe, "blur_kernel", "whole") == "tenth":
        return tenth
    return max(tenth, math.ceil(3 * recipe.blur_sigma[1]))


def blur_matrix(sigma: Array, on: Array, size: int, radius: int) -> Array:
    """Gaussian blur along one axis as a matrix: float32 [B, size, size].

    Edges reflect, as in torchvision's GaussianBlur (SimCLR's zeros darken the border).

    Args:
      sigma: float [B], in pixels.
      on: bool [B]; the matrix of the other images is the identity.
      size: pixels of the axis.
      radius: of the kernel; it is cut to less than `size`, so that no pixel is reflected twice.
    """
    require_arrays(sigma=(sigma, "float [B]"), on=(on, "bool [B]"))
    i = np.arange(size)[:, None]
    j = np.arange(size)
    radius = min(radius, max(1, size - 1))
    reflected_at_first = (i + j, j > 0)
    reflected_at_last = (2 * size - 2 - i - j, j < size - 1)
    images = ((i - j, j >= 0), reflected_at_first, reflected_at_last)

    def kernel(distance):
        return jnp.exp(-0.5 * (distance / sigma[:, None, None]) ** 2)

    matrix: Any = sum(kernel(d) * (is_pixel & (abs(d) <= radius)) for d, is_pixel in images)
    return jnp.where(on[:, None, None], matrix / matrix.sum(2, keepdims=True), jnp.eye(size))


def _resample(x, rows, columns):
    """[B, h, C, w], rows [B, o, h], columns [B, p, w] -> float32 [B, o, C, p]."""
    return _matmul("bocw,bpw->bocp", _matmul("boh,bhcw->bocw", rows, x, x.dtype), columns, x.dtype)


def _matmul(spec, a, b, dtype):
    """An einsum of inputs in dtype, accumulated in float32; float32 inputs do not become TF32."""
    precision = "highest" if dtype == "float32" else None
    a = a.astype(dtype)
    b = b.astype(dtype)
    return jnp.einsum(spec, a, b, precision=precision, preferred_element_type=jnp.float32)


def _finish(
    x: Array,
    recipe: SimpleNamespace,
    params: dict[str, Array] | None = None,
    active: Collection[str] = (),
) -> Array:
    """Solarize and normalize: [B, h, C, w] -> [B, h, w, C]."""
    if (
        params is not None and "solarize" in active
    ):  # at 0.5, between 127 and 128 of 255, as in BYOL
        x = jnp.where(params["solarize"][:, None, None, None] & (x >= 0.5), 1 - x, x)
    for key, value in {"mean": recipe.mean, "std": recipe.std}.items():
        _need(len(value) in (1, x.shape[2]), key, value, f"1 or {x.shape[2]} numbers", (0.5,))
    x = (x - jnp.array(recipe.mean)[:, None]) / jnp.array(recipe.std)[:, None]
    return jnp.swapaxes(x, 2, 3).astype(recipe.dtype)


def _active(recipe, channels):
    """The color operations of a recipe that images of so many channels can have."""
    requested = [name for name in JITTER if recipe.jitter_prob and getattr(recipe, name)]
    requested += [name for name in ("gray", "solarize") if getattr(recipe, f"{name}_prob")]
    possible = {1: ("brightness", "contrast", "solarize"), 3: requested}.get(channels, ())
    dropped = [name for name in requested if name not in possible]
    if dropped:
        _warn_once(f"augment: {channels}-channel images get no {', '.join(dropped)}")
    return [name for name in requested if name in possible]


def _checked(function: Callable, **settings: Any) -> SimpleNamespace:
    """The arguments of a function, after they were checked against its hints."""
    values.check_all("config.augment", settings, values.kinds_of(function))
    return SimpleNamespace(**settings)


def _need(right, key, value, rule, cure):
    if not right:
        raise ConfigError(f"config.augment.{key}", value, f"must be {rule}", f"try {cure}")
