"""The generator and the discriminator of BigGAN, for images of 32, 64 and 128 pixels.

"Large Scale GAN Training for High Fidelity Natural Image Synthesis" (Brock, Donahue, Simonyan; ICLR
2019; arXiv 1809.11096), appendix B, tables 4 to 6. Channel plans and details are those of
BigGAN-PyTorch (BigGAN.py). Differences: biases start at 0 (there U(+-1/sqrt(fan_in))). Without
labels and without hierarchical latents the BatchNorms are unconditional, as in SNGAN. Attention
follows the first block of its resolution.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError, call_with_section
from jssl.config.values import Whole, Width
from jssl.core import DatasetInfo
from jssl.nn import check_choice
from jssl.nn import encoder as nn_encoder
from jssl.nn.gan import Gan
from jssl.nn.gan_blocks import ConditionalBatchNorm, DownBlock, SelfAttention, UpBlock
from jssl.nn.spectral_norm import INITIALIZERS, Conv, Dense
from jssl.ops import require_arrays
from jssl.parallel.mesh import shard_batch

SIZES = {"biggan_32": 32, "biggan_64": 64, "biggan_128": 128}  # pixels
BOTTOM = 4  # pixels of the generator's first map
# Channels, as multiples of the width: of the first map and after each block of the generator,
UP = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1)}
# and after each block of the discriminator, of which the first ones halve the map.
DOWN = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
HALVINGS = {32: 2, 64: 4, 128: 5}
Init = Literal["orthogonal", "normal002", "xavier"]


class Discriminator(nn.Module):
    """The discriminator without its head: ``net(images [B, H, W, C], train) -> float32 [B, D]``.

    The features are the sums of the last map, after a ReLU, over its positions.
    """

    size: int
    width: int
    attention: int
    initializer: Callable
    dtype: jnp.dtype

    @property
    def dim(self) -> int:
        """The width D of the features."""
        return self.width * DOWN[self.size][-1]

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        conv = partial(
            Conv, train=train, spectral=True, initializer=self.initializer, dtype=self.dtype
        )
        x = images.astype(self.dtype)
        attended = self.attention
        for i, multiple in enumerate(DOWN[self.size]):
            block = partial(DownBlock, down=i < HALVINGS[self.size], first=i == 0)
            x = block(self.width * multiple, conv, name=f"layer{i + 1}_0")(x)
            if self.size // 2 ** min(i + 1, HALVINGS[self.size]) == attended:
                x = SelfAttention(conv, name=f"layer{i + 1}_1")(x)
                attended = 0
        return nn.relu(x).astype(jnp.float32).sum((1, 2))

    def features(self, output: Array) -> Array:
        """The output is the features."""
        return output


class Head(nn.Module):
    """The outputs of the discriminator: ``head(features [B, D], labels, train)``.

    Returns {"score": float32 [B]}, and with `rotations` {"rotation": float32 [B, 4]}, the logits of
    the quarter turns. With labels int [B], the score has the term <e_label, features> of a
    projection discriminator (Miyato & Koyama 2018, arXiv 1802.05637); label -1 has none.
    """

    num_classes: int
    rotations: bool
    initializer: Callable

    @nn.compact
    def __call__(self, features: Array, labels: Array | None, train: bool) -> dict[str, Array]:
        require_arrays(features=(features, "float [B, D]"), labels=(labels, "int [B]"))
        dense = partial(
            Dense, train=train, spectral=True, initializer=self.initializer, dtype=jnp.float32
        )
        outputs = {"score": dense(1, name="score")(features)[:, 0]}
        if labels is not None:
            by_class = dense(self.num_classes, use_bias=False, name="classes")(features)
            outputs["score"] += (by_class * jax.nn.one_hot(labels, self.num_classes)).sum(-1)
        if self.rotations:
            outputs["rotation"] = dense(4, name="rotation")(features)
        return outputs


class Generator(nn.Module):
    """``net(z [B, latent], labels, train) -> float32 [B, size, size, channels]`` in -1..1.

    The condition of each BatchNorm is the embedding of the label, int [B], if there are labels, and
    with `hierarchical` one of the chunks of z.
    """

    size: int
    channels: int
    latent: int
    width: int
    hierarchical: bool
    num_classes: int
    class_width: int
    attention: int
    spectral: bool
    initializer: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: Array, labels: Array | None, train: bool) -> Array:
        require_arrays(z=(z, "float [B, D]"), labels=(labels, "int [B]"))
        kind = {"train": train, "initializer": self.initializer, "dtype": self.dtype}
        conv = partial(Conv, spectral=self.spectral, **kind)
        dense = partial(Dense, spectral=self.spectral, **kind)
        linear = partial(dense, dtype=jnp.float32)
        norm = partial(ConditionalBatchNorm, train=train, dense=linear)
        plan = [self.width * multiple for multiple in UP[self.size]]
        chunks = jnp.split(z, len(plan), axis=1) if self.hierarchical else [z]
        shared = []
        if labels is not None:  # as published, the embedding has no spectral norm
            embed = partial(Dense, spectral=False, use_bias=False, **kind | {"dtype": jnp.float32})
            one_hot = jax.nn.one_hot(labels, self.num_classes)
            shared = [embed(self.class_width, name="classes")(one_hot)]
        x = dense(BOTTOM**2 * plan[0], name="linear")(chunks[0])
        x = shard_batch(x.reshape(len(z), BOTTOM, BOTTOM, plan[0]))
        for i, features in enumerate(plan[1:]):
            parts = shared + ([chunks[i + 1]] if self.hierarchical else [])
            condition = jnp.concatenate(parts, axis=1) if parts else None
            x = UpBlock(features, conv, norm, name=f"layer{i + 1}_0")(x, condition)
            if x.shape[1] == self.attention:
                x = SelfAttention(conv, name=f"layer{i + 1}_1")(x)
        x = nn.relu(norm(name="norm")(x, None))
        return jnp.tanh(conv(self.channels, name="out")(x).astype(jnp.float32))


def build(
    *,
    name: str,
    width: Width,
    attention: Whole,
    init: Init,
    dtype: Literal["float32", "bfloat16"],
) -> Discriminator:
    """The discriminator of BigGAN without its head, from a config's `model` section.

    Args:
      name: network: biggan_32, biggan_64 or biggan_128, by the pixels of a side of the images.
      width: channels that the plan of the network multiplies; 64 or 96 as published.
      attention: side in pixels of the map that gets self-attention; 0: none.
      init: initial kernels: "orthogonal", "normal002" or "xavier".
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.

    Raises:
      UserError: an unknown name, or no map has the side `attention`.
    """
    size = SIZES[check_choice("name", name, SIZES)]
    maps = [size >> (i + 1) for i in range(HALVINGS[size])]
    check_attention("model", attention, maps)
    return Discriminator(size, width, attention, INITIALIZERS[init], jnp.dtype(dtype))


def generator(
    *,
    latent: Width,
    width: Width,
    hierarchical: bool,
    class_width: Width,
    attention: Whole,
    spectral_norm: bool,
    init: Init,
    size: int,
    channels: int,
    num_classes: int,
    dtype: str,
) -> Generator:
    """The generator from ``config.generator``.

    Args:
      latent: numbers of the latent vector z.
      width: channels that the plan of the network multiplies; 64 or 96 as published.
      hierarchical: each block gets its own chunk of z as a condition.
      class_width: width of the embedding of a class, which is there with config.labels only.
      attention: side in pixels of the map that gets self-attention; 0: none.
      spectral_norm: normalize the kernels of the generator too.
      init: initial kernels: "orthogonal", "normal002" or "xavier".
      size: pixels of a side of the images: 32, 64 or 128.
      channels: of the images.
      num_classes: 0 without labels.
      dtype: of activations.

    Raises:
      UserError: no map has the side `attention`, or the chunks of z are not equal.
    """
    blocks = len(UP[size]) - 1
    check_attention("generator", attention, [BOTTOM << (i + 1) for i in range(blocks)])
    if hierarchical and latent % (blocks + 1):
        raise ConfigError(
            "config.generator.latent",
            latent,
            f"must be a multiple of {blocks + 1}, the chunks of hierarchical latents",
            f"try {-(-latent // (blocks + 1)) * (blocks + 1)}",
        )
    return Generator(
        size=size,
        channels=channels,
        latent=latent,
        width=width,
        hierarchical=hierarchical,
        num_classes=num_classes,
        class_width=class_width,
        attention=attention,
        spectral=spectral_norm,
        initializer=INITIALIZERS[init],
        dtype=jnp.dtype(dtype),
    )


def from_config(config: Config, data_info: DatasetInfo) -> Gan:
    """The networks of a config: the sections `model` and `generator`, and the keys of the average.

    Raises:
      UserError: the sections do not fit each other, the views, or the data.
    """
    check_views(config)
    encoder = nn_encoder(config.model)
    if not isinstance(encoder, Discriminator):
        names = "biggan_32, biggan_64 or biggan_128"
        raise ConfigError(
            "config.model.name", config.model.name, "no discriminator", f"use {names}"
        )
    if config.augment.size != encoder.size:
        problem = f"{config.model.name} is for {encoder.size}"
        raise ConfigError(
            "config.augment.size", config.augment.size, problem, f"set it to {encoder.size}"
        )
    if config.labels and "label" not in data_info.fields:
        raise ConfigError("config.labels", True, "the data has no labels", "set it to False")
    num_classes = config.num_classes if config.labels else 0
    made = call_with_section(
        generator,
        config.generator,
        "generator",
        size=encoder.size,
        channels=data_info.fields["image"].shape[-1],
        num_classes=num_classes,
        dtype=config.model.dtype,
    )
    head = Head(num_classes, bool(config.rotate_every), encoder.initializer)
    return Gan(
        encoder=encoder,
        head=head,
        generator=made,
        latent=made.latent,
        num_classes=num_classes,
        ema_decay=config.ema_decay,
        ema_start=config.ema_start,
    )


def check_views(config: Config) -> None:
    """Raises `UserError` unless pixels are in -1..1, and the rotated images fit into a step."""
    for key in ("mean", "std"):
        value = config.augment[key]
        if any(x != 0.5 for x in value):
            problem = "the generator makes pixels from -1 to 1"
            raise ConfigError(f"config.augment.{key}", value, problem, "set it to (0.5,)")
    images = config.batch_size // config.discriminator_steps
    if config.rotate_every and images % config.rotate_every:
        problem = f"must divide the {images} images of a step of the discriminator"
        raise ConfigError(
            "config.rotate_every", config.rotate_every, problem, "try 4, or 0 for no rotation"
        )


def check_attention(section: str, side: int, maps: list[int]) -> None:
    """Raises `UserError` unless a map has this side; 0 is no attention."""
    if side and side not in maps:
        sides = ", ".join(map(str, maps))
        raise ConfigError(f"config.{section}.attention", side, "no map has it", f"try 0, {sides}")
