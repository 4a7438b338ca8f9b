"""An encoder of jssl in the form of another library: tensors, and the content of config.json."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jssl import recipes
from jssl.config import UserError
from jssl.interop.weights import Weights
from jssl.nn import resnet, text, vit
from jssl.nn.positions import sincos

Array = np.ndarray


class Target(NamedTuple):
    """An encoder in the form of another library.

    Attributes:
      layout: a key of `jssl.interop.layouts.LAYOUTS`.
      config: the content of config.json; {} if the library has none.
      encoder: {our name: array} to write in that layout.
      prefix: before the name of each tensor of the encoder, for a model with a head.
      heads: {their name: array} of a head.
    """

    layout: str
    config: dict[str, Any]
    encoder: dict[str, Array]
    prefix: str = ""
    heads: Mapping[str, Array] = {}


def family(model: Mapping[str, Any]) -> str:
    """The family of a section `model`: "vit", "resnet", "bert" or "gpt"."""
    if model["name"] in vit.SIZES:
        return "vit"
    if model["name"] in resnet.SIZES:
        return "resnet"
    if model["name"] in text.SIZES:
        return text.SIZES[model["name"]][0]
    raise UserError(
        f"--config.model.name={model['name']!r} is no encoder of jssl; write its weights"
    )


def last_layer(weights: Weights, name: str) -> dict[str, Array]:
    """The last layer of a fine-tuned classifier under a name of another library."""
    kernel = np.ascontiguousarray(weights.heads["head/kernel"].T)
    return {f"{name}.weight": kernel, f"{name}.bias": weights.heads["head/bias"]}


def with_positions(weights: Weights) -> dict[str, Array]:
    """The tensors of a ViT with its positions; fixed ones are written as values."""
    model = weights.model
    if model["positions"] != "sincos":
        return dict(weights.encoder)
    grid = model["image_size"] // model["patch"]
    dim = vit.SIZES[model["name"]][0]
    table = sincos(dim, grid, model["class_token"])[None]
    return dict(weights.encoder) | {"pos_embed": table}


def with_defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """A section `model` of a ViT, with the values that older runs do not have."""
    return recipes.vit(model["name"], model["patch"], model["image_size"]) | dict(model)
