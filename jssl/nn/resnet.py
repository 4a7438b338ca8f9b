"""ResNet v1.5 (He et al., 2016, arXiv:1512.03385, table 1), as in torchvision's models/resnet.py.

v1.5 means that a bottleneck strides in its 3x3 convolution. Padding is explicit and symmetric.
Names map to torchvision's one to one: "layer1_0/downsample_0/kernel" is
"layer1.0.downsample.0.weight" ("_<digit>" becomes ".<digit>", kernel HWIO becomes weight OIHW).

BatchNorm: eps 1e-5, running statistics 0.9 * old + 0.1 * batch (PyTorch's momentum 0.1), arithmetic
and statistics in float32. Under `jit` a batch is a global array, so the statistics are those of the
global batch. Flax keeps the biased running variance (1/n), PyTorch the unbiased one (1/(n-1)). They
differ only in evaluation mode, by the factor n/(n-1), n = B * H * W.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError
from jssl.config.values import Width
from jssl.nn import check_choice
from jssl.nn.norm import batch_norm
from jssl.nn.pool import max_pool
from jssl.nn.products import Conv
from jssl.parallel.mesh import shard_batch

INITIALIZERS = {
    # He normal over fan_out: torchvision's models/resnet.py.
    "fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    # Truncated normal, variance 1/fan_in: tf VarianceScaling() in google-research/simclr resnet.py.
    "lecun": nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
    # U(+-1/sqrt(fan_in)): PyTorch's Conv2d default, kept by lightly's models/resnet.py.
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


def _conv(features: int, kernel: int, stride: int, *, initializer, dtype, name: str) -> nn.Conv:
    pad = (kernel - 1) // 2
    return Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=[(pad, pad), (pad, pad)],
        use_bias=False,
        kernel_init=initializer,
        dtype=dtype,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; [B, H, W, C] -> [B, H/stride, W/stride, features]."""

    features: int
    stride: int
    conv: Callable
    norm: Callable
    last_scale: Callable
    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.features, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, 3, 1, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=self.last_scale)(y)
        return nn.relu(y + shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions; [B, H, W, C] -> [B, H/stride, W/stride, 4 features]."""

    features: int
    stride: int
    conv: Callable
    norm: Callable
    last_scale: Callable
    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.features, 1, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.features, 1, 1, name="conv3")(y)
        y = self.norm(name="bn3", scale_init=self.last_scale)(y)
        return nn.relu(y + shortcut(self, x))


def shortcut(block: BasicBlock | Bottleneck, x: Array) -> Array:
    """The input, or its 1x1 projection where the shape changes (option B of the paper)."""
    features = block.expansion * block.features
    if block.stride == 1 and x.shape[-1] == features:
        return x
    x = block.conv(features, 1, block.stride, name="downsample_0")(x)
    return block.norm(name="downsample_1")(x)


SIZES = {
    "resnet_test": (BasicBlock, (1, 1)),
    "resnet8": (BasicBlock, (1, 1, 1)),
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
STEMS = {"imagenet": (7, 2), "cifar": (3, 1)}  # kernel and stride of conv1


class ResNet(nn.Module):
    """``net(images [B, H, W, C], train) -> float32 [B, D]``, D = width * 2**(stages - 1) *
    expansion.

    With ``pooled=False`` the output is the last feature map, float32 [B, h, w, D].
    """

    block: Callable
    depths: tuple[int, ...]
    stem: str
    width: int
    zero_init_residual: bool
    initializer: Callable
    dtype: jnp.dtype
    bn_splits: int = 1  # see `jssl.nn.norm`; a method sets it by `clone`

    @property
    def dim(self) -> int:
        """The width D of the features."""
        expansion: Any = getattr(self.block, "expansion", 1)
        return self.width * 2 ** (len(self.depths) - 1) * expansion

    @nn.compact
    def __call__(self, images: Array, train: bool, pooled: bool = True) -> Array:
        conv = partial(_conv, initializer=self.initializer, dtype=self.dtype)
        norm = batch_norm(train, self.dtype, self.bn_splits)
        last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        x: Array = conv(self.width, *STEMS[self.stem], name="conv1")(images.astype(self.dtype))
        x = nn.relu(norm(name="bn1")(x))
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2, 1)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                features = self.width * 2**stage
                x = shard_batch(self.block(features, stride, conv, norm, last_scale, name=name)(x))
        x = x.astype(jnp.float32)
        return self.features(x) if pooled else x

    def features(self, output: Array) -> Array:
        """Pools a feature map [B, h, w, D] to [B, D]; pooled features stay as they are."""
        return output.mean(axis=(1, 2)) if output.ndim == 4 else output


def build(
    *, name: str, stem: str, width: Width, zero_init_residual: bool, init: str, dtype: str
) -> ResNet:
    """A ResNet from a config's `model` section.

    Args:
      name: network: resnet8, resnet10, resnet18, 34, 50, 101 or 152. resnet8, with three
        stages of one block, is the paper's network for CIFAR (section 4.2, n = 1, there with
        parameter-free shortcuts); resnet10, with one block per stage, is for demos; resnet_test,
        with two stages, is for tests.
      stem: first layers: "imagenet" (7x7 stride 2, max-pooling) or "cifar" (3x3 stride 1). The
        pooling is 3x3 with stride 2 (the paper). "cifar" has none (SimCLR, arXiv:2002.05709,
        appendix B.9).
      width: channels of the first stage; 64 as published.
      zero_init_residual: the last BatchNorm scale of each residual branch starts at 0. So each
        block starts as its shortcut (Goyal et al., 2017, arXiv:1706.02677, section 5.1).
      init: initial kernels: "fan_out" (torchvision), "lecun" (SimCLR) or "torch" (PyTorch). See
        `INITIALIZERS`.
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.

    Raises:
      UserError: any other choice.
    """
    block, depths = SIZES[check_choice("name", name, SIZES)]
    if width < 1:
        raise ConfigError("config.model.width", width, "must be at least 1", "64 is as published")
    return ResNet(
        block=block,
        depths=depths,
        stem=check_choice("stem", stem, STEMS),
        width=width,
        zero_init_residual=zero_init_residual,
        initializer=INITIALIZERS[check_choice("init", init, INITIALIZERS)],
        dtype=jnp.dtype(check_choice("dtype", dtype, ("float32", "bfloat16"))),
    )
