"""Keys of a config: look one up by its dotted name, set it from a text, list them all."""

import ast
from typing import Any

import ml_collections

from jssl.config import values
from jssl.errors import ConfigError, UserError, short, suggest


def flatten(tree: ml_collections.ConfigDict, path: str = "config") -> dict[str, Any]:
    """Flattens a nested config to ``{"config.optim.lr": 0.3, ...}``."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update(flatten(value, f"{path}.{key}"))
        else:
            flat[f"{path}.{key}"] = value
    return flat


def resolve_key(config: ml_collections.ConfigDict, dotted: str) -> tuple[Any, str]:
    """Returns (section, last name) of the key ``a.b.c``.

    Raises:
      UserError: there is no such key; the message names the most similar key.
    """
    section: Any = config
    path = "config"
    *parents, name = dotted.split(".")
    for parent in parents:
        if parent not in section or not isinstance(section[parent], ml_collections.ConfigDict):
            cure = suggest(parent, section.keys())
            raise UserError(
                f"--{path}.{parent} is not a section; {elsewhere(config, dotted) or cure}"
            )
        section = section[parent]
        path = f"{path}.{parent}"
    if name not in section:
        cure = elsewhere(config, dotted) or suggest(name, section.keys())
        raise UserError(f"--{path}.{name} is not a key; {cure}")
    return section, name


def elsewhere(config: ml_collections.ConfigDict, dotted: str) -> str:
    """Suggests the same key in another section (``lr`` is ``optim.lr``); "" if there is none."""
    keys = [key.removeprefix("config.") for key in flatten(config)]
    matches = [key for key in keys if key.endswith(f".{dotted}")]
    return f"did you mean {' or '.join(map(repr, matches[:3]))}?" if matches else ""


def parse(key: str, text: str, old: Any) -> Any:
    """Converts `text` from the command line to the type of the present value `old`.

    Raises:
      UserError: `text` is no value of that type.
    """
    kind = type(old).__name__
    wrong = ConfigError(key, text, f"must be of type {kind}", f"write it as --{key}={short(old)}")
    if isinstance(old, ml_collections.ConfigDict):
        raise ConfigError(key, text, "a section", f"set one of its keys: {', '.join(sorted(old))}")
    if type(old) is int and values.is_duration(text):
        return text
    if values.is_duration(old) and text.strip().isdecimal():
        return int(text)
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise wrong
        return text.lower() in ("true", "1")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise wrong from None
    if isinstance(old, tuple | list):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if old and not all(is_number(element) == is_number(old[0]) for element in value):
            raise wrong
        return value
    if not is_number(old):
        raise ConfigError(key, old, "no literal in the recipe", "change it in the recipe")
    if not is_number(value) or (isinstance(old, int) and value != value // 1):
        raise wrong
    try:
        return type(old)(value)
    except OverflowError:
        raise wrong from None


def is_number(value: object) -> bool:
    """Whether the value is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
