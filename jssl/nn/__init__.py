"""Networks: encoders by name, and the check of named choices in a config."""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jssl.config import Config, ConfigError, UserError, call_with_section, plugins, suggest

# Each module has SIZES {name: ...} and build(*, name, ...).
FAMILIES = ("jssl.nn.resnet", "jssl.nn.vit", "jssl.nn.text", "jssl.nn.biggan")


def encoder(section: Config | Mapping[str, Any], vocab: int = 0, packed: bool = True) -> Any:
    """The encoder that a config's `model` section describes.

    Args:
      section: ``section["name"]`` selects the family ("resnet18", "vit_b", "bert_base", ...), or
        names a module outside jssl ("my_fork.convnext", `jssl.config.plugins`). The section is the
        keyword arguments of that family's `build`, whose signature is the schema.
      vocab: the number of ids of the tokenizer; only for text families.
      packed: ``config.data.pack_documents``; only for text families.

    Returns:
      A Linen module, called as ``encoder(images [B, H, W, C], train)`` or ``encoder(tokens [B, L],
      train, segment)``. ``encoder.features(output)``, for text ``features(output, segment)``, is
      float32 [B, D].

    Raises:
      UserError: no family has the name, or `build` refuses a value.
    """
    if "name" not in section:
        raise UserError("--config.model.name is missing; add it to the recipe")
    name = section["name"]
    if plugins.is_outside(name):
        build = plugins.resolve("config.model.name", name)
    else:
        by_name = builders()
        same_family = [other for other in by_name if other[:3] == str(name)[:3]]
        build = by_name[check_choice("name", name, same_family or by_name)]
    is_text = "vocab" in inspect.signature(build).parameters
    text_arguments = {"vocab": vocab, "packed": packed} if is_text else {}
    return call_with_section(build, section, "model", **text_arguments)


def builders() -> dict[str, Callable[..., Any]]:
    """Returns {name of an encoder: `build` of its family}."""
    modules = [importlib.import_module(family) for family in FAMILIES]
    return {name: module.build for module in modules for name in module.SIZES}


def check_choice(key: str, value: str, choices: Collection[str]) -> str:
    """Returns `value` if it is one of `choices`; else raises a `UserError` with the nearest one."""
    if value not in choices:
        raise ConfigError(f"config.model.{key}", value, "not known", suggest(value, choices))
    return value
