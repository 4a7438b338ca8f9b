"""VAE: "Auto-Encoding Variational Bayes" (Kingma, Welling; ICLR 2014; arXiv 1312.6114), section 3.

An encoder maps an image x to a normal distribution q(z|x), and a decoder maps a sample z of it to a
distribution p(x|z) of pixels. The loss is the negative of the lower bound of log p(x), equation 10:
-log p(x|z) + beta KL(q(z|x) || N(0, 1)), in nats per pixel value. Other values of beta than 1 are
the beta-VAE (Higgins et al., ICLR 2017). Beta rises from 0 in `config.beta_warmup_steps`. Free bits
(Kingma et al. 2016, arXiv 1606.04934, appendix C.8): a channel of z whose KL, mean over the batch,
is below `config.free_bits` nats costs that much.

`config.likelihood` is of 8-bit pixels (`jssl.losses.likelihood`): "discretized_logistic", or
"gaussian" with uniform dequantization, which gives a bound. The decoder predicts the scale of each
value. "bits_per_dim" is the bound with beta 1, of the pixels of the view, rounded to whole
numbers. It is comparable with published figures only if the view is the image itself.
"active_units" are the units whose mean has a variance above .01 in the batch (Burda et al. 2016,
arXiv 1509.00519, section 4).

There is no reference code. Differences: the networks are convolutional; z may be a map
(`decoder.bottleneck="map"`). The log variance of q is kept within +-10.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.config.values import Every, NonNegative
from jssl.core import DatasetInfo, Objective, Panel
from jssl.losses import dequantized_gaussian, discretized_logistic, kl_standard_normal
from jssl.metrics import monitor_from_config
from jssl.nn import decoder, masked_image
from jssl.nn.autoencoder import autoencoder_from_config, picture_view
from jssl.ops import linear_schedule, normal_latents
from jssl.transforms.pictures import to_pixels, whole_pixels

KEYS = {
    "likelihood": Annotated[
        Literal["discretized_logistic", "gaussian"], "distribution of a pixel value given z"
    ],
    "beta": Annotated[NonNegative, "weight of the KL divergence"],
    "beta_warmup_steps": Annotated[Every, "steps in which beta rises from 0; 0: it does not"],
    "free_bits": Annotated[NonNegative, "least KL of a channel of z that counts, in nats; 0: off"],
}
SECTIONS = decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    net = autoencoder_from_config(config, code_parts=2, outputs=2)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    picture = picture_view(config)
    monitor = monitor_from_config(config)

    def init(rng, batch):
        params, stats = net.init(rng, picture(batch))
        return params, {"stats": stats}

    def posterior(params, stats, images, train, rng=None):
        code, features, stats = net.encode(params, stats, images, train, rng)
        mean, log_variance = jnp.split(code, 2, axis=-1)
        return mean, log_variance.clip(-10, 10), features, stats

    def beta_at(step):
        if not config.beta_warmup_steps:
            return jnp.float32(config.beta)
        return linear_schedule(step, config.beta_warmup_steps, 0.0, config.beta)

    def log_likelihood(rng, pixels, mean, log_scale):
        if config.likelihood == "gaussian":
            return dequantized_gaussian(rng, pixels, mean, log_scale)
        return discretized_logistic(pixels, mean, log_scale)

    def loss(params, state, batch, rng):
        rng_view, rng_net, rng_z, rng_pixels = jax.random.split(rng, 4)
        images = train_view(rng_view, batch)
        stats = state.buffers["stats"]
        mean, log_variance, features, stats = posterior(params, stats, images, True, rng_net)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(rng_z, mean.shape)
        output, stats = net.decode(params, stats, z, train=True)
        pixels = whole_pixels(config, images)
        log_p = log_likelihood(rng_pixels, pixels, *jnp.split(output, 2, axis=-1))
        distortion = -log_p.sum() / len(images)  # nats per image
        kl = kl_standard_normal(mean, log_variance)
        kl = kl.reshape(len(kl), -1, kl.shape[-1]).sum(1).mean(0)  # nats of each channel of z
        beta = beta_at(state.step)
        rate = beta * jnp.maximum(kl, config.free_bits).sum()
        num_values = images[0].size
        metrics = monitor(state.step, features) | {
            "bits_per_dim": (distortion + kl.sum()) / num_values / jnp.log(2.0),
            "kl": kl.sum(),
            "active_units": (mean.var(0) > 0.01).sum().astype(jnp.float32),
            "beta": beta,
        }
        return (distortion + rate) / num_values, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    def decoded(params, buffers, z):
        output, _ = net.decode(params, buffers["stats"], z, train=False)
        return jnp.split(output, 2, axis=-1)[0] / 2 + 0.5  # the mean of each pixel, in 0..1

    def sample(params, buffers, rng, count, truncation=0.0):
        return decoded(params, buffers, normal_latents(rng, (count, *net.code_shape), truncation))

    def render(params, buffers, batch, rng):
        images = picture(batch)
        mean, _, _, _ = posterior(params, buffers["stats"], images, train=False)
        drawn = [jax.random.normal(key, mean.shape) for key in jax.random.split(rng, 4)]
        steps = (0.0, 0.25, 0.5, 0.75, 1.0)
        between = [mean + t * (jnp.roll(mean, -1, axis=0) - mean) for t in steps]

        def panel(first, codes, captions):
            return Panel((*first, *(decoded(params, buffers, z) for z in codes)), captions)

        original = (to_pixels(config, images),)
        return {
            "reconstructed": panel(original, [mean], ("original", "reconstructed")),
            "sampled": panel((), drawn, ("z ~ N(0, 1)",) * len(drawn)),
            "interpolated": panel((), between, tuple(f"{t:.0%} of the next" for t in steps)),
        }

    return Objective(init, loss, embed, render, sample=sample)
