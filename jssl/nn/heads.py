"""Projection and prediction heads: one MLP with BatchNorm.

`MLP(features=(512, 128), ...)` is Dense 512, BatchNorm, ReLU, Dense 128 (, BatchNorm). Published:

| head | norm | last_norm | last_scale | last_bias | source |
|---|---|---|---|---|---|
| SimCLR | yes | yes | yes | no | google-research/simclr model_util.py: center=use_bias=False |
| SimCLR in lightly | yes | yes | yes | yes | lightly heads.py, SimCLRProjectionHead |
| SimSiam projector | yes | yes | no | no | lightly heads.py: BatchNorm1d(affine=False) |
| BYOL, SwAV, SimSiam predictor | yes | no | - | yes | lightly heads.py |
| Barlow Twins, VICReg | yes | no | - | no | facebookresearch/barlowtwins main.py: bias=False |
| MoCo v2 | no | no | - | yes | lightly heads.py, MoCoProjectionHead |
| MoCo v3 projector, predictor | yes | yes | no | no | facebookresearch/moco-v3 builder.py |
| NNCLR projector | yes | yes | yes | yes | lightly heads.py, NNCLRProjectionHead |
| DINO (GELU), up to its bottleneck | no | no | - | yes | facebookresearch/dino DINOHead |
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError, UserError, call_with_section, suggest, values
from jssl.config.values import Widths
from jssl.nn import encoder as nn_encoder
from jssl.nn.apply import EncoderWithHeads
from jssl.nn.norm import batch_norm
from jssl.nn.products import Dense
from jssl.ops import require_arrays

KERNELS = {
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # U(+-1/sqrt(fan_in))
    "normal001": nn.initializers.normal(0.01),  # google-research/simclr model_util.py
    "lecun": nn.initializers.lecun_normal(),
    "xavier": nn.initializers.xavier_uniform(),
    "trunc02": nn.initializers.normal(0.02),  # facebookresearch/dino, which cuts at +-2: no effect
}
ACTIVATIONS = {"relu": nn.relu, "gelu": partial(nn.gelu, approximate=False)}


class MLP(nn.Module):
    """``head(x [B, D], train) -> float32 [B, features[-1]]``.

    A Dense layer before a BatchNorm has no bias (lightly heads.py: use_bias = not batch_norm),
    because the BatchNorm would remove it.

    Attributes:
      features: the width of each Dense layer; the last is that of the output.
      norm: BatchNorm after each hidden Dense layer.
      last_norm: BatchNorm after the last Dense layer.
      last_scale: the last BatchNorm learns a scale.
      last_bias: the last layer, BatchNorm or Dense, learns a bias.
      activation: a key of `ACTIVATIONS`, after each hidden layer.
      initializer: a key of `KERNELS`. "torch" also draws the biases from U(+-1/sqrt(fan_in)),
        the default of PyTorch's Linear; with the others they start at zero.
      dtype: of the matrix products. BatchNorm is computed in float32, and the output is float32.
        For its momentum, eps and biased running variance see `jssl.nn.resnet`.
    """

    features: tuple[int, ...]
    norm: bool
    last_norm: bool
    last_scale: bool
    last_bias: bool
    activation: str
    initializer: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        require_arrays(x=(x, "float [B, D]"))
        norm = batch_norm(train, jnp.float32)
        dense = partial(Dense, kernel_init=KERNELS[self.initializer], dtype=self.dtype)
        for i, width in enumerate(self.features[:-1]):
            bias = self.bias_init(x.shape[-1])
            x = dense(width, use_bias=not self.norm, bias_init=bias, name=f"dense{i}")(x)
            x = norm(name=f"bn{i}")(x) if self.norm else x
            x = ACTIVATIONS[self.activation](x)
        i = len(self.features) - 1
        use_bias = self.last_bias and not self.last_norm
        bias = self.bias_init(x.shape[-1])
        x = dense(self.features[-1], use_bias=use_bias, bias_init=bias, name=f"dense{i}")(x)
        if self.last_norm:
            x = norm(use_scale=self.last_scale, use_bias=self.last_bias, name=f"bn{i}")(x)
        return x.astype(jnp.float32)

    def bias_init(self, fan_in: int) -> Callable:
        """The initializer of a Dense layer's bias; only "torch" draws it, else it is zero."""
        if self.initializer != "torch":
            return nn.initializers.zeros
        bound = fan_in**-0.5
        return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def build(
    *,
    features: Widths,
    norm: bool,
    last_norm: bool,
    last_scale: bool,
    last_bias: bool,
    activation: str,
    init: str,
    dtype: str,
    section: str = "head",
) -> MLP:
    """An `MLP` from a section of a config, such as ``config.head``.

    Args:
      features: width of each Dense layer; the last is the width of the output.
      norm: BatchNorm after each hidden Dense layer.
      last_norm: BatchNorm after the last Dense layer.
      last_scale: the last BatchNorm learns a scale.
      last_bias: the last layer, BatchNorm or Dense, learns a bias.
      activation: after each hidden layer: "relu" or "gelu".
      init: initial kernels: "torch", "normal001", "lecun", "xavier" or "trunc02". See `KERNELS`.
      dtype: dtype of the matrix products.
      section: name of the section, for messages.

    Raises:
      UserError: a width is below 1, or a name is not known.
    """
    if not features or min(features) < 1:
        raise ConfigError(
            f"config.{section}.features", features, "must be widths above 0", "try (512, 128)"
        )
    for key, value, choices in (("init", init, KERNELS), ("activation", activation, ACTIVATIONS)):
        if value not in choices:
            raise ConfigError(
                f"config.{section}.{key}", value, "not known", suggest(value, choices)
            )
    return MLP(
        tuple(features), norm, last_norm, last_scale, last_bias, activation, init, jnp.dtype(dtype)
    )


def classifier(config: Config, classes: int) -> MLP:
    """The MLP of ``config.head``, which gives the logits of `classes` classes.

    Raises:
      UserError: its last width is not `classes`.
    """
    widths = tuple(config.head.features)
    if widths[-1:] != (classes,):
        raise ConfigError(
            "config.head.features",
            widths,
            f"must end in {classes}, the number of classes",
            f"set it to {(*widths[:-1], classes)}",
        )
    return call_with_section(build, config.head, "head", dtype=config.model.dtype)


# {section: its kinds}
SECTIONS = dict.fromkeys(("head", "predictor", "patch_head"), values.documented_kinds(build))


def chain(config: Config, *names: str) -> EncoderWithHeads:
    """The encoder of ``config.model`` and the heads `names` after it, in sequence.

    Each head is an MLP of the section of its name: ``chain(config, "head", "predictor")``.

    Raises:
      UserError: the last layers of predictor and head differ in width.
    """
    modules = {"encoder": nn_encoder(config.model)}
    for name in names:
        modules[name] = call_with_section(
            build, config[name], name, dtype=config.model.dtype, section=name
        )
    if "predictor" in modules:
        predictor_width = modules["predictor"].features[-1]
        head_width = modules["head"].features[-1]
        if predictor_width != head_width:
            raise UserError(
                f"--config.predictor.features ends in {predictor_width} and --config.head.features "
                f"in {head_width}, but one predicts the other; end both in {head_width}"
            )
    return EncoderWithHeads(modules)
