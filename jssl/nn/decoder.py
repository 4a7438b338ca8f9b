"""The way from the feature map of an encoder to an image: a bottleneck and a convolutional decoder.

No layer of the decoder sees a layer of the encoder, so that all information passes the code.
"""

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jssl.config import values
from jssl.config.values import Whole, Width
from jssl.nn.norm import batch_norm
from jssl.nn.products import Conv, Dense
from jssl.parallel.mesh import shard_batch

GROUPS = 8  # of a GroupNorm, if they divide the channels


class Bottleneck(nn.Module):
    """A feature map [B, h, w, D] -> a code, float32 [B, dim], or [B, h, w, dim] if ``kind="map"``.

    It is linear. "vector" reads the whole map, so that the code knows where things are.
    """

    kind: str
    dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.kind == "map":
            code = Conv(self.dim, (1, 1), dtype=self.dtype, name="code")(x)
        else:
            code = Dense(self.dim, dtype=self.dtype, name="code")(x.reshape(len(x), -1))
        return code.astype(jnp.float32)


class Decoder(nn.Module):
    """A code [B, D] or [B, side, side, D] -> an image, float32 [B, H, H, channels].

    Each of the `doublings` stages doubles the size: H = side * 2**doublings. At the size H there
    are `width` channels, and at half of any size twice as many.

    Attributes:
      side: height and width of the smallest map.
      doublings: number of stages.
      channels: of the output.
      width, blocks, upsample, norm: as in `build`.
      dtype: of the convolutions; the output is float32.
    """

    side: int
    doublings: int
    channels: int
    width: int
    blocks: int
    upsample: str
    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, code: Array, train: bool) -> Array:
        width = self.width * 2**self.doublings
        if code.ndim == 2:
            x = Dense(self.side**2 * width, dtype=self.dtype, name="unfold")(code)
            x = x.reshape(len(x), self.side, self.side, width)
        else:
            x = self.conv(width, name="unfold")(code)
        for stage in range(self.doublings + 1):
            if stage:
                width //= 2
                x = self.double(x, width, f"up{stage}")
            x = nn.relu(self.normalize(x, train, f"norm{stage}"))
            for i in range(self.blocks):
                x = shard_batch(self.residual(x, train, f"block{stage}_{i}"))
        return self.conv(self.channels, name="image")(x).astype(jnp.float32)

    def conv(self, features: int, name: str) -> nn.Conv:
        """A 3x3 convolution."""
        return Conv(features, (3, 3), padding=[(1, 1), (1, 1)], dtype=self.dtype, name=name)

    def double(self, x: Array, width: int, name: str) -> Array:
        """Twice the height and the width: [B, h, w, C] -> [B, 2h, 2w, width]."""
        if self.upsample == "transposed":
            make = partial(nn.ConvTranspose, kernel_size=(4, 4), strides=(2, 2), dtype=self.dtype)
            return make(width, name=name)(x)
        return self.conv(width, name=name)(x.repeat(2, axis=1).repeat(2, axis=2))

    def normalize(self, x: Array, train: bool, name: str) -> Array:
        """The chosen normalization of x [B, h, w, C]."""
        if self.norm == "batch":
            return batch_norm(train, self.dtype)(name=name)(x)
        if self.norm == "group":
            groups = math.gcd(GROUPS, x.shape[-1])
            return nn.GroupNorm(num_groups=groups, dtype=self.dtype, name=name)(x)
        return x

    def residual(self, x: Array, train: bool, name: str) -> Array:
        """A residual block: a 3x3 convolution to half of the channels, and a 1x1 one back."""
        width = x.shape[-1]
        y = self.conv(-(-width // 2), name=f"{name}_conv1")(x)
        y = nn.relu(self.normalize(y, train, f"{name}_norm"))
        y = Conv(width, (1, 1), dtype=self.dtype, name=f"{name}_conv2")(y)
        return nn.relu(x + y)


def build(
    *,
    bottleneck: Literal["vector", "map"],
    dim: Width,
    width: Width,
    blocks: Whole,
    upsample: Literal["resize", "transposed"],
    norm: Literal["group", "batch", "none"],
    side: int,
    doublings: int,
    channels: int,
    code_parts: int,
    dtype: Any,
) -> tuple[Bottleneck, Decoder]:
    """The bottleneck and the decoder of ``config.decoder``.

    Args:
      bottleneck: code of an image: "vector", of the whole feature map, or "map", one of each place.
      dim: numbers in the code of an image, or of a place.
      width: channels of the decoder at the size of the image; twice as many at half the size.
      blocks: residual blocks at each size.
      upsample: how the size doubles: "resize" (nearest pixels, then a 3x3 convolution: Odena et al.
        2016, distill.pub/2016/deconv-checkerboard), or "transposed" (a 4x4 convolution of stride 2,
        as in DCGAN, arXiv 1511.06434).
      norm: before each activation: "group" (GroupNorm), "batch" (BatchNorm) or "none".
      side: height and width of the feature map.
      doublings: doublings of the size, from the map to the image.
      channels: of the output.
      code_parts: the bottleneck has `code_parts` times `dim` outputs.
      dtype: of the convolutions.
    """
    squeeze = Bottleneck(bottleneck, code_parts * dim, jnp.dtype(dtype))
    decode = Decoder(side, doublings, channels, width, blocks, upsample, norm, jnp.dtype(dtype))
    return squeeze, decode


SECTIONS = {"decoder": values.documented_kinds(build)}  # {section: its kinds}
