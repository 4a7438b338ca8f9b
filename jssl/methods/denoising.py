"""Denoising autoencoder: "Extracting and Composing Robust Features with Denoising Autoencoders"
(Vincent, Larochelle, Bengio, Manzagol; ICML 2008), and "Stacked Denoising Autoencoders" (Vincent,
Larochelle, Lajoie, Bengio, Manzagol; JMLR 11, 2010), section 3:
https://www.jmlr.org/papers/v11/vincent10a.html

An image is corrupted: by Gaussian noise, or by values that are set to 0 ("masking"), or to 0 or 1
("salt_pepper"). A network encodes the corrupted image and decodes it to the clean one. The loss is
the squared error of all pixels.

There is no reference code. Differences: the networks are convolutional and are trained as a whole,
where the papers train layers of shared weights one after the other. The papers also have a
cross-entropy for pixels in 0..1, and a higher weight of corrupted values.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.config.values import NonNegative
from jssl.core import DatasetInfo, Objective, Panel
from jssl.metrics import monitor_from_config, psnr
from jssl.nn import decoder, masked_image
from jssl.nn.autoencoder import autoencoder_from_config, picture_view
from jssl.transforms.corrupt import add_noise, check_strength
from jssl.transforms.pictures import from_pixels, to_pixels

KEYS = {
    "noise": Annotated[
        Literal["gaussian", "masking", "salt_pepper"],
        "corruption of each value of an image: added noise, 0, or 0 or 1",
    ],
    "noise_strength": Annotated[
        NonNegative, "deviation of gaussian noise, for pixels in 0..1; or share of the values"
    ],
}
SECTIONS = decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    check_strength(config.noise, config.noise_strength)
    net = autoencoder_from_config(config)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    picture = picture_view(config)
    monitor = monitor_from_config(config)

    def init(rng, batch):
        params, stats = net.init(rng, picture(batch))
        return params, {"stats": stats}

    def denoise(params, stats, images, rng, train):
        rng_noise, rng_net = jax.random.split(rng)
        pixels = to_pixels(config, images)
        noisy = add_noise(rng_noise, pixels, config.noise, config.noise_strength)
        key = rng_net if train else None
        code, features, stats = net.encode(params, stats, from_pixels(config, noisy), train, key)
        clean, stats = net.decode(params, stats, code, train)
        return clean, noisy, features, stats

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = train_view(rng_view, batch)
        clean, noisy, features, stats = denoise(
            params, state.buffers["stats"], images, rng_net, train=True
        )
        pixels = to_pixels(config, images)
        metrics = monitor(state.step, features) | {
            "psnr": psnr(to_pixels(config, clean), pixels),
            "psnr_input": psnr(noisy, pixels),
        }
        return jnp.square(clean - images).mean(), ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        images = picture(batch)
        clean, noisy, _, _ = denoise(params, buffers["stats"], images, rng, train=False)
        columns = (to_pixels(config, images), noisy, to_pixels(config, clean))
        return {"denoised": Panel(columns, ("original", "corrupted", "denoised"))}

    return Objective(init, loss, embed, render)
