"""The decoder of `jssl.methods.shifted_image`: pixels from a feature map and an offset."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError, values
from jssl.config.values import Count, Width
from jssl.nn.products import Conv, Dense
from jssl.nn.transformer import layer_norm
from jssl.ops import unpatchify


class Decoder(nn.Module):
    """(feature map [B, h, h, D], offset [B, 2] in -1..1) -> float32 [B, window, window, channels].

    Each block is two convolutions with a shortcut around them. The offset moves the activations
    between the two, in each block by a linear layer of its own.
    """

    dim: int
    depth: int
    window: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: Array, offset: Array, train: bool) -> Array:
        patch, remainder = divmod(self.window, features.shape[1])
        if remainder or not patch:
            side = features.shape[1]
            problem = f"the encoder's map of {side} x {side} positions does not tile it"
            raise ConfigError("config.window", self.window, problem, f"try {2 * side}")
        dense = partial(Dense, dtype=self.dtype)
        conv = partial(Conv, self.dim, (3, 3), dtype=self.dtype)
        code = nn.relu(dense(self.dim, name="offset")(offset))
        x = dense(self.dim, name="embed")(features)
        for i in range(self.depth):
            y = conv(name=f"conv{i}_a")(layer_norm(dtype=self.dtype, name=f"norm{i}")(x))
            y = nn.relu(y + dense(self.dim, name=f"offset{i}")(code)[:, None, None])
            x = x + conv(name=f"conv{i}_b")(y)
        pixels = dense(patch**2 * self.channels, name="pixels")(nn.relu(x))
        rows = pixels.reshape(len(x), -1, pixels.shape[-1]).astype(jnp.float32)
        return unpatchify(rows, patch, self.channels)


def build(*, dim: Width, depth: Count, window: int, channels: int, dtype: str) -> Decoder:
    """The decoder from ``config.decoder``.

    Args:
      dim: width of the decoder.
      depth: number of blocks of the decoder, of two convolutions each.
      window: side of a window, in pixels.
      channels: of an image.
      dtype: dtype of the matrix products.
    """
    return Decoder(dim, depth, window, channels, jnp.dtype(dtype))


SECTIONS = {"decoder": values.documented_kinds(build)}
