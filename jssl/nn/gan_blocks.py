"""The blocks of GANs: conditional BatchNorm, self-attention, residual blocks that resize.

They are those of BigGAN (Brock, Donahue, Simonyan; ICLR 2019; arXiv 1809.11096, appendix B), as in
BigGAN-PyTorch (layers.py). A block gets its convolutions and norms as functions, so that one
function sets their kind (`jssl.nn.spectral_norm`).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.nn.norm import batch_norm
from jssl.nn.pool import max_pool
from jssl.parallel.mesh import shard_batch


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose gain and bias are linear in a condition (de Vries et al. 2017, 1707.00683).

    ``norm(x [B, H, W, C], condition [B, K])`` is float32 [B, H, W, C]. The gain is 1 + a linear
    function. Without a condition, None, gain and bias are learned as in any BatchNorm.

    Attributes:
      train: use the statistics of the batch.
      dense: makes the linear functions, without a bias.
    """

    train: bool
    dense: Callable

    @nn.compact
    def __call__(self, x: Array, condition: Array | None) -> Array:
        norm = batch_norm(self.train, jnp.float32)
        if condition is None:
            return norm(name="bn")(x)
        x = norm(name="bn", use_scale=False, use_bias=False)(x)
        gain = self.dense(x.shape[-1], use_bias=False, name="gain")(condition)
        bias = self.dense(x.shape[-1], use_bias=False, name="bias")(condition)
        return x * (1 + gain[:, None, None]) + bias[:, None, None]


class SelfAttention(nn.Module):
    """Self-attention of positions, with a learned factor that starts at 0; [B, H, W, C] -> same.

    "Self-Attention Generative Adversarial Networks" (Zhang et al.; ICML 2019; arXiv 1805.08318).
    Keys and values are max-pooled by 2, so H and W are even.
    """

    conv: Callable

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape

        def rows(features: int, name: str, pool: bool) -> Array:
            y: Array = self.conv(max(features, 1), size=1, use_bias=False, name=name)(x)
            y = max_pool(y, 2, 2, 0) if pool else y
            return y.reshape(batch, -1, y.shape[-1])

        query = rows(channels // 8, "theta", pool=False)
        key = rows(channels // 8, "phi", pool=True)
        value = rows(channels // 2, "g", pool=True)
        logits = jnp.einsum("bqd,bkd->bqk", query, key, preferred_element_type=jnp.float32)
        mixed = jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(logits).astype(value.dtype), value)
        mixed = mixed.reshape(batch, height, width, -1)
        out = self.conv(channels, size=1, use_bias=False, name="o")(mixed)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * out


class UpBlock(nn.Module):
    """The residual block of a generator: [B, H, W, C] -> [B, 2H, 2W, features]."""

    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: Array, condition: Array | None) -> Array:
        h = nn.relu(self.norm(name="bn1")(x, condition))
        h = shard_batch(self.conv(self.features, name="conv1")(upsample(h)))
        h = nn.relu(self.norm(name="bn2")(h, condition))
        h = self.conv(self.features, name="conv2")(h)
        return shard_batch(h + self.conv(self.features, size=1, name="conv_sc")(upsample(x)))


class DownBlock(nn.Module):
    """The residual block of a discriminator: [B, H, W, C] -> [B, H/2, W/2, features].

    Attributes:
      features: channels of the output.
      conv: makes the convolutions.
      down: halve H and W by average pooling.
      first: the block gets images: no activation before its first convolution, and the shortcut is
        pooled before its convolution.
    """

    features: int
    conv: Callable
    down: bool
    first: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = self.conv(self.features, name="conv1")(x if self.first else nn.relu(x))
        h = self.conv(self.features, name="conv2")(nn.relu(h))
        if self.down:
            h = downsample(h)
        if self.down and self.first:
            x = downsample(x)
        if self.down or x.shape[-1] != self.features:
            x = self.conv(self.features, size=1, name="conv_sc")(x)
        if self.down and not self.first:
            x = downsample(x)
        return shard_batch(h + x)


def upsample(x: Array) -> Array:
    """Repeats each pixel: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x: Array) -> Array:
    """The mean of each square of 2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
