"""Likelihoods of pixels, and the Kullback-Leibler divergence of a VAE; in nats, elementwise."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jssl.ops import require_arrays

MIN_LOG_SCALE = -7.0  # openai/pixel-cnn nn.py: smaller scales are raised to it


def discretized_logistic(pixels: Array, mean: Array, log_scale: Array) -> Array:
    """log P of pixels under a logistic distribution that is integrated over the bin of each value.

    Source: PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517), equation 2, with one component and
    without a dependence of the channels. The first and the last bin reach to infinity, so the
    probabilities of the 256 values sum to 1. The difference of the two sigmoids at a > b is written
    as s(a) s(-b) (1 - exp(b - a)), which needs no approximation in narrow bins.

    Args:
      pixels: float [B, H, W, C], whole numbers from 0 to 255.
      mean, log_scale: float [B, H, W, C]; pixels / 127.5 - 1 has the distribution.

    Returns:
      float32 [B, H, W, C], in nats.
    """
    require_arrays(
        pixels=(pixels, "float [B, H, W, C]"),
        mean=(mean, "float [B, H, W, C]"),
        log_scale=(log_scale, "float [B, H, W, C]"),
    )
    scale = jnp.exp(-jnp.maximum(log_scale, MIN_LOG_SCALE))
    middle = pixels / 127.5 - 1 - mean
    upper = (middle + 1 / 255) * scale
    lower = (middle - 1 / 255) * scale
    is_last = pixels >= 255
    is_first = pixels <= 0
    below_upper = jnp.where(is_last, 0.0, jax.nn.log_sigmoid(upper))
    above_lower = jnp.where(is_first, 0.0, jax.nn.log_sigmoid(-lower))
    width = jnp.where(is_first | is_last, 0.0, jnp.log(-jnp.expm1(-2 / 255 * scale)))
    return below_upper + above_lower + width


def dequantized_gaussian(rng: Array, pixels: Array, mean: Array, log_scale: Array) -> Array:
    """log p of pixels plus uniform noise in [0, 1) under a normal distribution.

    Its mean over the noise is a lower bound of the log probability of the pixels (Theis et al.
    2016, arXiv 1511.01844, section 3.1).

    Args:
      rng: a random key, for the noise.
      pixels: float [B, H, W, C], whole numbers from 0 to 255.
      mean, log_scale: float [B, H, W, C]; (pixels + noise) / 128 - 1 has the distribution.

    Returns:
      float32 [B, H, W, C], in nats; the density is of pixels in 0..256.
    """
    require_arrays(
        pixels=(pixels, "float [B, H, W, C]"),
        mean=(mean, "float [B, H, W, C]"),
        log_scale=(log_scale, "float [B, H, W, C]"),
    )
    log_scale = jnp.maximum(log_scale, MIN_LOG_SCALE)
    x = (pixels + jax.random.uniform(rng, pixels.shape)) / 128 - 1
    error = jnp.square((x - mean) * jnp.exp(-log_scale))
    return -0.5 * (error + math.log(2 * math.pi)) - log_scale - math.log(128)


def kl_standard_normal(mean: Array, log_variance: Array) -> Array:
    """KL(N(mean, variance) || N(0, 1)), elementwise, float32 [...].

    Source: Kingma & Welling 2014, appendix B.
    """
    require_arrays(mean=(mean, "float [...]"), log_variance=(log_variance, "float [...]"))
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
