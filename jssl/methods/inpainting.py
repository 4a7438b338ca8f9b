"""Inpainting: "Context Encoders: Feature Learning by Inpainting"
(Pathak, Krahenbuhl, Donahue, Darrell, Efros; CVPR 2016; arXiv 1604.07379), equation 1, the L2 part.

A part of an image is replaced by the mean color of the data: a square in the center, rectangles at
random places, or single pixels. An encoder and a decoder predict the image, and the squared error
of the hole is the loss. A band of visible pixels around the hole is predicted too, with ten times
the weight, so that the prediction continues what surrounds it.

Reference code: pathak22/context-encoder train.lua. As there, the center square and its band fill
the predicted square, and the errors are divided by the number of predicted pixels. Differences: the
encoder is a ResNet or a ViT; the decoder makes the whole image, there the square alone; there is
no adversarial loss. Single pixels (`mask="pixels"`) are not in the paper.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.config.values import Part, Range
from jssl.core import DatasetInfo, Objective, Panel
from jssl.metrics import monitor_from_config, psnr
from jssl.nn import decoder, masked_image
from jssl.nn.autoencoder import autoencoder_from_config, picture_view
from jssl.transforms.corrupt import band_weight, hole_fn
from jssl.transforms.pictures import to_pixels

BAND_WEIGHT = 10.0  # section 3.3 and train.lua overlapL2Weight
KEYS = {
    "mask": Annotated[
        Literal["center", "blocks", "pixels"],
        "what is masked: a square in the center, random rectangles, or single pixels",
    ],
    "mask_ratio": Annotated[
        Part, "share of the pixels that are masked: at most, for blocks; with the band, for center"
    ],
    "overlap": Annotated[
        int, Range(0, 2**10), "width of the band around the hole, in pixels, of weight 10"
    ],
}
SECTIONS = decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    draw_holes = hole_fn(config.mask, config.augment.size, config.mask_ratio, config.overlap)
    net = autoencoder_from_config(config)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    picture = picture_view(config)
    monitor = monitor_from_config(config)

    def init(rng, batch):
        params, stats = net.init(rng, picture(batch))
        return params, {"stats": stats}

    def inpaint(params, stats, images, rng, train):
        rng_hole, rng_net = jax.random.split(rng)
        hole = draw_holes(rng_hole, len(images))
        masked = jnp.where(hole[..., None], 0.0, images)  # normalized pixels: 0 is the mean
        key = rng_net if train else None
        code, features, stats = net.encode(params, stats, masked, train, key)
        prediction, stats = net.decode(params, stats, code, train)
        return prediction, hole, masked, features, stats

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = train_view(rng_view, batch)
        prediction, hole, masked, features, stats = inpaint(
            params, state.buffers["stats"], images, rng_net, train=True
        )
        weight = band_weight(hole, config.overlap, BAND_WEIGHT)
        error = jnp.square(prediction - images).mean(-1)
        value = (error * weight).sum() / (weight > 0).sum()
        pixels = to_pixels(config, images)
        metrics = monitor(state.step, features) | {
            "psnr": psnr(to_pixels(config, prediction), pixels, hole),
            "psnr_mean_fill": psnr(to_pixels(config, masked), pixels, hole),
        }
        return value, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        images = picture(batch)
        prediction, hole, masked, _, _ = inpaint(params, buffers["stats"], images, rng, train=False)
        filled = jnp.where(hole[..., None], prediction, images)
        columns = tuple(to_pixels(config, x) for x in (images, masked, filled))
        return {"inpainted": Panel(columns, ("original", "masked", "reconstructed"))}

    return Objective(init, loss, embed, render)
