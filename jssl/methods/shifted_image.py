"""Shifted image: "Action-Conditional Video Prediction using Deep Networks in Atari Games"
(Oh, Guo, Lee, Lewis, Singh; NeurIPS 2015; arXiv 1507.08750), for still images.

In the paper, a network sees frames of a video and an action, and predicts the next frame. Here it
sees a window of an image and an offset, and predicts the pixels of the window that is shifted by
this offset. No paper describes just this task.

A part of the second window is also in the first one: the network can copy it, if it follows the
offset. It must guess the rest from what the image shows. The metrics "mse_seen" and "mse_new" are
the errors of the two parts.

The encoder gives a feature map of the first window. A small convolutional decoder
(`config.decoder`, `jssl.nn.shift_decoder`) gets this map and the offset, and predicts a square of
pixels at each position of the map. The loss is the squared error of all pixels, which are
normalized by the mean and the deviation of the data set.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError, call_with_section
from jssl.config.values import Pixels
from jssl.core import DatasetInfo, Objective, Panel
from jssl.metrics import monitor_from_config
from jssl.nn import shift_decoder
from jssl.nn.apply import apply, init
from jssl.nn.feature_maps import image_encoder, run_encoder
from jssl.nn.masked_image import eval_view, train_view
from jssl.transforms.pictures import to_pixels
from jssl.transforms.pretext import seen_part, shifted_windows

KEYS = {
    "window": Annotated[Pixels, "side of a window, in pixels"],
    "max_shift": Annotated[Pixels, "largest offset of the second window, in pixels"],
}

SECTIONS = shift_decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    check_room(config)
    encoder = image_encoder(config.model, "model")
    given = {"window": config.window, "channels": config.data.channels}
    head = call_with_section(
        shift_decoder.build, config.decoder, "decoder", **given, dtype=config.model.dtype
    )
    random_view = train_view(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)

    def windows(rng, batch):
        rng_view, rng_windows = jax.random.split(rng)
        images = random_view(rng_view, batch)
        return shifted_windows(rng_windows, images, config.window, config.max_shift)

    def init_params(rng, batch):
        rng_encoder, rng_decoder = jax.random.split(rng)
        first, _, offset = windows(rng, batch)
        params, stats = init(encoder, rng_encoder, first)
        features = jax.eval_shape(lambda: run_encoder(encoder, params, stats, first, False)[1])
        decoder_params, _ = init(head, rng_decoder, jnp.zeros(features.shape), offset)
        return {"encoder": params, "decoder": decoder_params}, {"stats": stats}

    def predict(params, stats, first, offset, train, rng=None):
        rngs = None if rng is None else {"drop_path": rng}
        z, feature_map, stats = run_encoder(encoder, params["encoder"], stats, first, train, rngs)
        share = offset / config.max_shift
        prediction, _ = apply(head, params["decoder"], {}, feature_map, share, train=train)
        return prediction, z, stats

    def loss(params, state, batch, rng):
        rng_windows, rng_net = jax.random.split(rng)
        first, second, offset = windows(rng_windows, batch)
        prediction, z, stats = predict(params, state.buffers["stats"], first, offset, True, rng_net)
        error = jnp.square(prediction - second).mean(-1)
        seen = seen_part(offset, config.window)
        metrics = monitor(state.step, z) | {
            "mse_seen": jnp.sum(error * seen) / jnp.maximum(seen.sum(), 1),
            "mse_new": jnp.sum(error * ~seen) / jnp.maximum((~seen).sum(), 1),
        }
        return error.mean(), ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return run_encoder(encoder, params["encoder"], buffers["stats"], view(batch), False)[0]

    def render(params, buffers, batch, rng):
        first, second, offset = windows(rng, batch)
        prediction, _, _ = predict(params, buffers["stats"], first, offset, train=False)
        seen = jnp.where(seen_part(offset, config.window)[..., None], second, 0.0)
        images = tuple(to_pixels(config, x) for x in (first, seen, prediction, second))
        captions = ("window", "its part of the target", "prediction", "shifted window")
        return {"shifted_image": Panel(images, captions)}

    return Objective(init_params, loss, embed, render)


def check_room(config: Config) -> None:
    """Raises `UserError` if the two windows do not fit into a view."""
    size = config.augment.size
    if config.window + config.max_shift > size:
        raise ConfigError(
            "config.max_shift",
            config.max_shift,
            f"with --config.window={config.window} it exceeds --config.augment.size={size}",
            f"try {max(1, size - config.window)}",
        )
