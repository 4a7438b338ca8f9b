"""Parts of methods that mask images: the ViT, views in float32, small layers, pictures."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jssl import nn
from jssl.config import Config, ConfigError, call_with_section
from jssl.core import Batch, Panel, Params
from jssl.nn.apply import apply
from jssl.nn.transformer import INITIALIZERS
from jssl.nn.vit_encoder import ViT, draw_token
from jssl.ops import nearest_index, unpatchify
from jssl.transforms import augment
from jssl.transforms.pictures import to_pixels


def vit_from_config(config: Config) -> ViT:
    """The encoder of ``config.model``.

    Raises:
      UserError: it is no ViT, or its patches do not tile a training view.
    """
    encoder = nn.encoder(config.model)
    if not isinstance(encoder, ViT):
        raise ConfigError(
            "config.model.name", config.model.name, f"no ViT, as {config.method} needs", "try vit_s"
        )
    if config.augment.size % encoder.patch:
        size = config.augment.size
        tries = [patch for patch in (16, 8, 4, 2, 1) if size % patch == 0]
        raise ConfigError(
            "config.model.patch",
            encoder.patch,
            f"must divide --config.augment.size={size}",
            f"try {tries[0]}",
        )
    return encoder


def grid_side(config: Config, encoder: ViT) -> int:
    """Patches along a side of a training view."""
    return config.augment.size // encoder.patch


def patch_pixels(config: Config, encoder: ViT) -> int:
    """The number of values in a patch: pixels times channels."""
    return encoder.patch**2 * config.data.channels


def train_view(config: Config) -> Callable[[Array, Batch], Array]:
    """f(rng, batch) -> float32 [B, H, W, C]: one random view of each image."""
    view = call_with_section(augment.view, config.augment, "augment", dtype="float32")
    return lambda rng, batch: view(rng, batch["image"], batch["size"])


def eval_view(config: Config) -> Callable[[Batch], Array]:
    """f(batch) -> float32 [B, H, W, C]: the center of each image, for evaluation."""
    size = config.eval.size or config.augment.size
    mean = config.augment.mean
    std = config.augment.std
    view = augment.center(
        size=size, crop=config.eval.crop_fraction, mean=mean, std=std, dtype="float32"
    )
    return lambda batch: view(batch["image"], batch["size"])


def embed_images(encoder: ViT, params: Params, images: Array) -> Array:
    """The pooled features of images [B, H, W, C] in evaluation mode, float32 [B, D]."""
    tokens, _ = apply(encoder, params, {}, images, train=False)
    return encoder.features(tokens)


def patch_tokens(encoder: ViT, tokens: Array) -> Array:
    """The tokens of the patches, [B, N, D]."""
    return tokens[:, encoder.num_prefix :]


def without_registers(encoder: ViT, tokens: Array) -> Array:
    """The class token, if there is one, and the tokens of the patches: [B, 1 + N, D]."""
    if not encoder.registers:
        return tokens
    class_token = tokens[:, : encoder.class_token]
    return jnp.concatenate([class_token, patch_tokens(encoder, tokens)], axis=1)


def init_mask_token(rng: Array, encoder: ViT) -> Array:
    """A mask token, float32 [D], drawn as the encoder's class token is."""
    return draw_token(encoder.init_name)(rng, (encoder.dim,), jnp.float32)


def init_dense(rng: Array, encoder: ViT, width: int, out: int) -> dict[str, Array]:
    """A linear layer from `width` to `out` features, drawn as the encoder's are; the bias is 0."""
    kernel = INITIALIZERS[encoder.init_name](rng, (width, out), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(out)}


def init_torch_dense(rng: Array, width: int, out: int) -> dict[str, Array]:
    """A linear layer from `width` to `out` features, drawn as PyTorch does.

    Kernel and bias are from U(+-1 / sqrt(width)).
    """
    rng_kernel, rng_bias = jax.random.split(rng)
    bound = width**-0.5
    kernel = jax.random.uniform(rng_kernel, (width, out), minval=-bound, maxval=bound)
    bias = jax.random.uniform(rng_bias, (out,), minval=-bound, maxval=bound)
    return {"kernel": kernel, "bias": bias}


def dense(layer: dict[str, Array], x: Array) -> Array:
    """A linear layer in float32: x [..., width] -> [..., out]."""
    return x.astype(jnp.float32) @ layer["kernel"] + layer["bias"]


def nearest_patches(predicted: Array, targets: Array, patches: Array) -> Array:
    """Shows predicted features: replaces each by the patch with the nearest target feature.

    Args:
      predicted: [B, N, D], the predicted features.
      targets: [B, N, D], the target features of the patches of all images.
      patches: [B, N, P].

    Returns:
      [B, N, P]; each patch may be of any image of the batch.
    """

    def flat(x):
        return x.reshape(-1, x.shape[-1]).astype(jnp.float32)

    index = nearest_index(flat(predicted), flat(targets), False)
    return flat(patches)[index].reshape(patches.shape)


def reconstruction_panel(
    config: Config, encoder: ViT, patches: Array, mask: Array, prediction: Array
) -> Panel:
    """The panel of a reconstruction: original, masked, predicted; each [B, H, W, C].

    Args:
      config: the whole config.
      encoder: a ViT.
      patches: [B, N, P], the patches of normalized images.
      mask: [B, N], above 0 where a patch is masked; the other patches are shown as they are.
      prediction: [B, N, P].
    """
    hidden = (mask > 0)[..., None]
    columns = [
        patches,
        jnp.where(hidden, 0.0, patches),
        jnp.where(hidden, prediction, patches),
    ]
    channels = config.data.channels
    images = [unpatchify(x, encoder.patch, channels) for x in columns]
    return Panel(tuple(to_pixels(config, x) for x in images), ("original", "masked", "predicted"))


def mask_unit(config: Config, encoder: ViT) -> int:
    """Patches along a side of a masked square of ``config.mask_unit`` pixels.

    Raises:
      UserError: patches do not tile the square, or squares do not tile the image.
    """
    pixels = config.mask_unit
    unit, remainder = divmod(pixels, encoder.patch)
    if remainder or not unit or grid_side(config, encoder) % unit:
        raise ConfigError(
            "config.mask_unit",
            pixels,
            f"must be a multiple of --config.model.patch={encoder.patch} that divides the image",
            f"try {encoder.patch}",
        )
    return unit


def rounded_count(ratio: float, patches: int) -> int:
    """`ratio` of the patches, rounded to a whole number, as in BEiT and data2vec."""
    return math.floor(ratio * patches + 0.5)


def num_masked(
    ratio: float, patches: int, count: Callable[[float, int], int] = rounded_count
) -> int:
    """The number of patches that a ratio masks, ``count(ratio, patches)``.

    Raises:
      UserError: it is none of the patches, or all.
    """
    masked = count(ratio, patches)
    if not 0 < masked < patches:
        raise ConfigError(
            "config.mask_ratio", ratio, f"must hide some of {patches} patches, not all", "try 0.5"
        )
    return masked
