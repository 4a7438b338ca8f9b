"""The views of a batch: random views for training, one centered view for evaluation.

Views of one image are adjacent rows, so that each device keeps its own images.
"""

from collections.abc import Callable
from typing import Annotated, Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, call_with_section, values
from jssl.core import Batch
from jssl.transforms import augment

VIEW = values.documented_kinds(augment.view)
LOCAL = VIEW | {"count": Annotated[values.Whole, "local crops of each image; 0: none"]}
SECTIONS = {"augment": VIEW, "augment_second_view": VIEW, "local": LOCAL}  # {section: its kinds}


def two_views(config: Config) -> Callable[[Array, Batch], Array]:
    """f(rng, batch) -> [2B, H, W, C]: two views of each image, at rows 2i and 2i + 1.

    ``config.augment`` describes both views. ``config.augment_second_view``, if there is one,
    changes keys of it for the second view (BYOL, appendix B: one is always blurred, the other
    solarized).
    """
    first, second = sections(config)
    dtype = config.model.dtype
    first_view = call_with_section(augment.view, first, "augment", dtype=dtype)
    if second is None:
        return lambda rng, batch: first_view(rng, *repeat_images(batch, 2))
    second_view = call_with_section(augment.view, second, "augment_second_view", dtype=dtype)

    def two(rng, batch):
        keys = jax.random.split(rng)
        pairs = zip((first_view, second_view), keys, strict=True)
        images = [view(key, *repeat_images(batch, 1)) for view, key in pairs]
        return jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])

    return two


def split_views(x: Array) -> tuple[Array, Array]:
    """(first views [B, ...], second views [B, ...]) of the rows [2B, ...] of `two_views`."""
    chex.assert_is_divisible(
        len(x), 2, custom_message=f"x {x.shape} must have two rows, the views, of each image"
    )
    return x[0::2], x[1::2]


def multi_crop(config: Config) -> Callable[[Array, Batch], dict[str, Array]]:
    """f(rng, batch) -> {"global": [2B, H, W, C], "local": [nB, h, w, C]}: multi-crop.

    ``config.local`` has the number n of local crops of each image, `count`, and the keys that they
    change in ``config.augment``. The local crops of image i are the rows ni ... ni + n - 1. There
    is no key "local" if n is 0. Source: SwAV (Caron et al. 2020), section 3.2.
    """
    two = two_views(config)
    local = dict(config.local)
    count = local.pop("count")
    values.check("config.local.count", count, LOCAL["count"])
    section = dict(config.augment) | local
    local_view = call_with_section(augment.view, section, "local", dtype=config.model.dtype)

    def all_crops(rng, batch):
        rng_global, rng_local = jax.random.split(rng)
        crops = {"global": two(rng_global, batch)}
        if count:
            crops["local"] = local_view(rng_local, *repeat_images(batch, count))
        return crops

    return all_crops


def undistorted_views(config: Config, scale: int) -> Callable[[Array, Batch], Array]:
    """The global crops of `multi_crop` in another resolution: f(rng, batch) -> [2B, H, W, C].

    With the same `rng` they are the same parts of the images, without jitter, grayscale, blur and
    solarization.

    Args:
      config: the whole config.
      scale: H / the height of the crops of `multi_crop`.
    """
    off = dict.fromkeys(("jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), 0.0)
    changes = {f"augment.{key}": value for key, value in off.items()}
    changes["augment.size"] = scale * config.augment.size
    for key in dict(config.augment_second_view) if "augment_second_view" in config else ():
        if key in off:
            changes[f"augment_second_view.{key}"] = 0.0
    two = two_views(config.changed(changes))
    return lambda rng, batch: two(jax.random.split(rng)[0], batch)


def shifted_views(config: Config, shift: int) -> Callable[[Array, Batch], tuple[Array, Array]]:
    """f(rng, batch) -> (window, shifted window with other colors), each float32 [B, S, S, C].

    Both are of one crop with S + `shift` pixels a side: the first is its upper left corner, the
    second up to `shift` pixels away. ``config.augment`` describes the crop, and
    ``config.augment_second_view`` the colors of the second window. Source: CMAE (arXiv 2207.13532),
    section 3.2; ZhichengHuang/CMAE datasets/cmae_dataset.py.
    """
    first, second = sections(config)
    size = first["size"]
    mean, std = jnp.asarray(first["mean"]), jnp.asarray(first["std"])
    larger = first | {"size": size + shift, "mean": (0.0,), "std": (1.0,)}
    crop_of = call_with_section(augment.view, larger, "augment", dtype="float32")
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip_prob": 0.0}
    colored = call_with_section(
        augment.view, (second or first) | whole, "augment_second_view", dtype="float32"
    )

    def views(rng, batch):
        rng_crop, rng_shift, rng_color = jax.random.split(rng, 3)
        crop = jnp.round(crop_of(rng_crop, batch["image"], batch["size"]) * 255).astype(jnp.uint8)
        corners = jax.random.randint(rng_shift, (len(crop), 2), 0, shift + 1)

        def window(image, corner):
            return jax.lax.dynamic_slice(image, (*corner, 0), (size, size, image.shape[-1]))

        moved = jax.vmap(window)(crop, corners)
        valid = jnp.full((len(crop), 2), size, jnp.int32)
        return (crop[:, :size, :size] / 255 - mean) / std, colored(rng_color, moved, valid)

    return views


def eval_view(config: Config) -> Callable[[Batch], Array]:
    """f(batch) -> [B, H, W, C]: the center of each image, for evaluation.

    It is ``eval.crop_fraction`` of the image, resized to ``eval.size`` pixels; 0: to the size of
    the training views.
    """
    view = augment.center(
        size=config.eval.size or config.augment.size,
        crop=config.eval.crop_fraction,
        mean=config.augment.mean,
        std=config.augment.std,
        dtype=config.model.dtype,
    )
    return lambda batch: view(batch["image"], batch["size"])


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The sections of the two views: (augment, augment with the keys of augment_second_view).

    The second is None if the config has no section augment_second_view.
    """
    first = dict(config.augment)
    if "augment_second_view" not in config:
        return first, None
    return first, first | dict(config.augment_second_view)


def repeat_images(batch: Batch, count: int) -> tuple[Array, Array]:
    """(image, size) of a batch; each row is repeated `count` times, next to itself."""
    return jnp.repeat(batch["image"], count, axis=0), jnp.repeat(batch["size"], count, axis=0)
