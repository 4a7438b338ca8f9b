"""Features of an image and of its parts, of any image encoder of jssl."""

from typing import Any

import jax
from jax import Array

from jssl.config import Config, ConfigError, UserError, call_with_section
from jssl.nn import resnet, vit
from jssl.nn.apply import apply
from jssl.nn.resnet import ResNet


def image_encoder(section: Config, name: str) -> Any:
    """The encoder that the section `name` of a config describes.

    Raises:
      UserError: it is no ViT and no ResNet of jssl, or a value is wrong.
    """
    values = dict(section)
    family = next((module for module in (resnet, vit) if values.get("name") in module.SIZES), None)
    if family is None:
        raise ConfigError(
            f"config.{name}.name",
            values.get("name"),
            "no image encoder with a feature map",
            "use a ResNet or a ViT of jssl, such as resnet18",
        )
    try:
        return call_with_section(family.build, values, name)
    except UserError as error:  # messages of `build` name the section `model`
        raise UserError(str(error).replace("config.model.", f"config.{name}.")) from None


def reduction(encoder: Any) -> int:
    """How many times larger an image is than the feature map of a ViT or a ResNet, at each side."""
    if isinstance(encoder, ResNet):
        of_stem = resnet.STEMS[encoder.stem][1] * (2 if encoder.stem == "imagenet" else 1)
        return of_stem * 2 ** (len(encoder.depths) - 1)
    return encoder.patch


def run_encoder(
    encoder: Any,
    params: dict[str, Any],
    stats: dict[str, Any],
    images: Array,
    train: bool,
    rngs: dict[str, Array] | None = None,
) -> tuple[Array, Array, dict[str, Any]]:
    """Runs a ViT or a ResNet.

    Args:
      encoder, params, stats: of `jssl.nn.apply.init`.
      images: [B, H, W, C].
      train: as in `jssl.nn.apply.apply`.
      rngs: the random streams of a training pass.

    Returns:
      (features float32 [B, D], feature map float32 [B, h, w, D], stats). The map of a ViT has the
      tokens of its patches.
    """
    options = {"pooled": False} if isinstance(encoder, ResNet) else {}
    output, stats = apply(encoder, params, stats, images, train=train, rngs=rngs, **options)
    features = encoder.features(output)
    if isinstance(encoder, ResNet):
        return features, output, stats
    patches = output[:, encoder.num_prefix :].astype(features.dtype)
    side = images.shape[1] // encoder.patch
    return features, patches.reshape(len(patches), side, side, -1), stats


def resized(x: Array, height: int, width: int) -> Array:
    """Images or feature maps [B, h, w, D] in another size, [B, height, width, D].

    Bilinear between the centers of the pixels, with antialiasing where the size decreases, as
    Pillow's BILINEAR.
    """
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (len(x), height, width, x.shape[-1]), "linear", antialias=True)
