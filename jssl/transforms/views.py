"""The views of a batch: random ones for training, one centered view for evaluation.

Views of one image are adjacent rows, so that each device keeps its own images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jssl.config import call_with_section, values
from jssl.transforms import augment


def two_views(config) -> Callable:
    """f(rng, batch) -> [2B, H, W, C]: two views of each image, at 2i and 2i + 1.

    ``config.augment`` says how; what ``config.augment_second_view`` changes, if there is one, makes
    the second view (BYOL, appendix B: one is always blurred, the other solarized).
    """
    first, second = sections(config)
    one = call_with_section(augment.view, first, "augment", dtype=config.model.dtype)
    if second is None:
        return lambda rng, batch: one(rng, *repeat_images(batch, 2))
    other = call_with_section(augment.view, second, "augment_second_view", dtype=config.model.dtype)

    def two(rng, batch):
        keys = jax.random.split(rng)
        images = [
            view(k, *repeat_images(batch, 1)) for view, k in zip((one, other), keys, strict=True)
        ]
        return jnp.stack(images, axis=1).reshape(-1, *images[0].shape[1:])

    return two


def split_views(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(first views [B, ...], second views [B, ...]) of the rows [2B, ...] of `two_views`."""
    return x[0::2], x[1::2]


def multi_crop(config) -> Callable:
    """f(rng, batch) -> {"global": [2B, H, W, C], "local": [nB, h, w, C]}: multi-crop.

    ``config.local`` has `count`, the number n of local crops of each image, at ni ... ni + n - 1,
    and what they change in ``config.augment``; no key "local" where n is 0. SwAV (Caron et al.
    2020), section 3.2.
    """
    two = two_views(config)
    local = dict(config.local)
    count = local.pop("count")
    values.check("config.local.count", count, values.Whole)
    section = dict(config.augment) | local
    small = call_with_section(augment.view, section, "local", dtype=config.model.dtype)

    def all_crops(rng, batch):
        rng_two, rng_small = jax.random.split(rng)
        found = {"global": two(rng_two, batch)}
        if count:
            found["local"] = small(rng_small, *repeat_images(batch, count))
        return found

    return all_crops


def eval_view(config) -> Callable:
    """f(batch) -> [B, H, W, C]: the view of evaluation, ``eval.crop_fraction`` of the image resized
    to ``eval.size`` (0: the size of training)."""
    look = {key: config.augment[key] for key in ("mean", "std")} | {"dtype": config.model.dtype}
    size = config.eval.size or config.augment.size
    view = augment.center(size=size, crop=config.eval.crop_fraction, **look)
    return lambda batch: view(batch["image"], batch["size"])


def sections(config) -> tuple[dict, dict | None]:
    """(augment, augment laid over by augment_second_view or None)."""
    first = dict(config.augment)
    return first, first | dict(
        config.augment_second_view
    ) if "augment_second_view" in config else None


def repeat_images(batch, count: int):
    """(image, size), each row `count` times in a row."""
    return (jnp.repeat(batch[key], count, axis=0) for key in ("image", "size"))
