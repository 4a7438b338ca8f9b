"""Networks: encoders by name, and the check that every named choice in a config goes through."""

import importlib

from jssl.config import UserError, bind, near

FAMILIES = ("jssl.nn.resnet", "jssl.nn.vit")  # each has SIZES {name: ...} and build(*, name, ...)


def encoder(section):
    """The encoder that a config's `model` section describes.

    `section["name"]` picks the family ("resnet18", "vit_b", ...), and the section is bound to that
    family's `build`, whose signature is the schema. The encoder is a Linen module called as
    ``encoder(images [B, H, W, C], train)``; ``encoder.features(output)`` is float32 [B, D] for both
    families. Raises `UserError` for a name that no family has, and for what `build` refuses.
    """
    if "name" not in section:
        raise UserError("config.model.name is missing; add it to the recipe")
    modules = [importlib.import_module(family) for family in FAMILIES]
    builders = {name: module.build for module in modules for name in module.SIZES}
    return bind(builders[choose("name", section["name"], builders)], section, "model")


def choose(key: str, value, choices):
    """`value`, if it is one of `choices`; else a `UserError` that names the nearest one."""
    if value not in choices:
        raise UserError(f"model.{key}={value!r} is not known; {near(value, choices)}")
    return value
