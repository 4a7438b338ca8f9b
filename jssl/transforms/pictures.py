"""The views of a batch as pictures for people."""

import jax.numpy as jnp
from jax import Array

from jssl.config import Config
from jssl.core import Batch, Buffers, DatasetInfo, Objective, Panel, Params
from jssl.transforms.views import eval_view, multi_crop, two_views


def to_pixels(config: Config, images: Array) -> Array:
    """Undoes the normalization of ``config.augment``: images [..., C] to float32 in 0..1."""
    x = images.astype(jnp.float32)
    return x * jnp.array(config.augment.std) + jnp.array(config.augment.mean)


def from_pixels(config: Config, pixels: Array) -> Array:
    """The inverse of `to_pixels`: pixels in 0..1, normalized as ``config.augment`` says."""
    return (pixels - jnp.array(config.augment.mean)) / jnp.array(config.augment.std)


def whole_pixels(config: Config, images: Array) -> Array:
    """The pixels of normalized images as whole numbers, float32 [..., C] in 0..255.

    They are exact where a view is the image itself: no crop, no resize, no change of color.
    """
    return jnp.round(255 * to_pixels(config, images)).clip(0, 255)


def views_panel(config: Config, batch: Batch, rng: Array) -> Panel:
    """The evaluation view of each image, and its training views: two, or all of multi-crop.

    Args:
      config: the whole config.
      batch: of images.
      rng: the random key of the views.
    """
    if "local" in config:
        crops = multi_crop(config)(rng, batch)
    else:
        crops = {"view": two_views(config)(rng, batch)}
    columns = {"evaluation": eval_view(config)(batch)}
    for name, x in crops.items():
        count = len(x) // len(batch["image"])
        columns |= {f"{name} {i + 1}": x[i::count] for i in range(count)}
    images = tuple(to_pixels(config, x) for x in columns.values())
    return Panel(images, tuple(columns))


def add_views(objective: Objective, config: Config, data_info: DatasetInfo) -> Objective:
    """Adds the picture "views" to the `render` of an objective that compares views of images.

    Other objectives are returned as they are. An objective that renders "views" itself keeps its
    own picture.
    """
    compares_views = objective.stages is not None and data_info.modality == "image"
    if not compares_views or "augment" not in config:
        return objective
    own = objective.render
    unwatched = Config(config._tree)  # what pictures read does not count as read by the method

    def render(
        params: Params, buffers: Buffers, batch: Batch, rng: Array
    ) -> dict[str, Array | Panel]:
        views: dict[str, Array | Panel] = {"views": views_panel(unwatched, batch, rng)}
        return {**views, **(own(params, buffers, batch, rng) if own else {})}

    return objective._replace(render=render)
