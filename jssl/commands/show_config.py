"""`jssl config`: every key of a recipe, with its value, its origin, its kind and its meaning."""

import logging
from typing import Any

import ml_collections

from jssl.commands.arguments import require
from jssl.commands.table import Args, Overrides
from jssl.config import flatten, load, read, reference
from jssl.interop.read import read_weights
from jssl.recipes import DEFAULTS

log = logging.getLogger("jssl")


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Returns {key: {"value", "origin", "kind", "meaning"}}; a table goes to stderr.

    With --from it returns the section `model` that fits a file of weights, and its pixel
    statistics.
    """
    if args["from"]:
        return section_of(args["from"])
    spec = require(args, "config", "config")
    tree = load(spec, overrides)
    recipe = flatten(read(spec), "")
    keys = {
        key.name: {
            "value": key.value,
            "origin": origin(key.name, key.value, recipe),
            "kind": key.kind,
            "meaning": key.meaning,
        }
        for key in reference.keys(tree)
    }
    for line in table(keys):
        log.info("%s", line)
    return {"config": spec, "keys": keys}


def origin(key: str, value: Any, recipe: dict[str, Any]) -> str:
    """Where the value of a key comes from: the command line, the recipe, or the defaults."""
    defaults = flatten(ml_collections.ConfigDict(DEFAULTS), "")
    if recipe.get(f".{key}") != value:
        return "command line"
    return "default" if defaults.get(f".{key}") == value else "recipe"


def table(keys: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table, one for each key."""
    width = max(map(len, keys))
    return [
        f"{name:{width}}  {entry['value']!r}  ({entry['origin']}; {entry['kind']}) "
        f"{entry['meaning']}"
        for name, entry in keys.items()
    ]


def section_of(path: str) -> dict[str, Any]:
    """The section `model` that fits weights, and the `augment` keys that they need.

    The flags for the command line go to stderr.
    """
    weights = read_weights(path)
    sections = {"model": weights.model} | ({"augment": weights.pixels} if weights.pixels else {})
    keys = [(f"{name}.{key}", value) for name in sections for key, value in sections[name].items()]
    log.info("%s (%s)", weights.path, weights.layout)
    for key, value in keys:
        log.info("--config.%s=%s", key, as_text(value))
    return {"from": path, "layout": weights.layout} | sections


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
