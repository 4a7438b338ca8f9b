"""The keys of a config as texts for people: what is allowed, and what it means.

The meaning of a key is a string in its kind, ``Annotated[kind, "meaning"]``, or the first sentence
of its entry in the docstring of the function whose arguments a section holds
(`values.documented_kinds`). `jssl.config.schema` has the kinds of shared sections, and `KEYS` of a
method those of its own top-level keys. A section that a method passes to a function of its choice
has its kinds in `SECTIONS`, {section: {key: kind}}, of the module of that function: the views, the
heads, or the method itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import ml_collections

from jssl import methods, nn
from jssl.config import flatten, resolve_key, schema, tasks, values
from jssl.config.values import INT, Length, Range
from jssl.nn import heads
from jssl.transforms import views

PLURALS = {int: "ints", float: "floats", str: "strings", bool: "bools"}


class Key(NamedTuple):
    """One key of a config.

    Attributes:
      name: such as "optim.lr".
      value: its value in the config.
      kind: what is allowed, as in "float, at least 0" (`describe_kind`).
      meaning: one phrase; "" for an undocumented key, as in a fork.
    """

    name: str
    value: Any
    kind: str
    meaning: str


def keys(config: ml_collections.ConfigDict) -> list[Key]:
    """Lists all keys of a config.

    Raises:
      UserError: the config has no method, or its module cannot be imported.
    """
    kinds = section_kinds(config)
    all_keys = []
    for path, value in flatten(config).items():
        key = path.removeprefix("config.")
        section, _, name = key.rpartition(".")
        kind = kinds.get(section, {}).get(name, object)
        all_keys.append(Key(key, value, describe_kind(kind), stated_meaning(kind)))
    return all_keys


def meaning(config: ml_collections.ConfigDict, key: str) -> str:
    """Returns the meaning of a key such as "optim.lr"; "" if it has none.

    Raises:
      UserError: the config has no such key; or as `keys` does.
    """
    resolve_key(config, key)
    section, _, name = key.rpartition(".")
    return stated_meaning(section_kinds(config).get(section, {}).get(name, object))


def section_kinds(config: ml_collections.ConfigDict) -> dict[str, Mapping[str, Any]]:
    """Returns {section: {key: kind}} of a config; the section "" holds its top-level keys.

    It has more than the config: sections and keys that only other recipes have, and arguments of
    functions that no config sets. It lacks what nothing documents, as in a fork.

    Raises:
      UserError: as `keys` does.
    """
    method_name: Any = config.get("method", "")
    method = methods.module(method_name)
    model: Any = config.get("model")
    name = model.get("name") if isinstance(model, ml_collections.ConfigDict) else ""
    builder = nn.builders().get(str(name))
    found = {
        **views.SECTIONS,
        **heads.SECTIONS,
        "model": values.documented_kinds(builder) if builder else {},
        **getattr(method, "SECTIONS", {}),
        **schema.SECTIONS,
        "": {**getattr(method, "KEYS", {}), **schema.TOP},
    }
    for task in tasks.methods_of(config):
        for section, kinds in section_kinds(tasks.tree_of(config, task)).items():
            found[f"{task}.{section}".rstrip(".")] = kinds
    return found


def stated_meaning(kind: Any) -> str:
    """Returns the string in the rules of a kind; "" if there is none."""
    rules = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((rule for rule in rules if isinstance(rule, str)), "")


def describe_kind(kind: Any) -> str:
    """Describes a kind, as in "int, at least 1; or a duration" or "2 floats from 0 to 1"."""
    return _describe(kind) + ("; or a duration" if values.counts_steps(kind) else "")


def _describe(kind: Any, plural: bool = False) -> str:
    """`describe_kind` without durations; `plural` for the elements of a tuple."""
    base, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(repr, get_args(base)))}"
    if base in PLURALS:
        noun = PLURALS[base] if plural else base.__name__
        return noun + "".join(_bounds(rule, plural) for rule in rules if isinstance(rule, Range))
    if get_origin(base) is tuple and get_args(base):
        return _describe_tuple(get_args(base), rules, plural)
    return "any value"


def _bounds(limits: Range, plural: bool) -> str:
    """Describes a range, as in " from 0 to 1" or ", at least 1"."""
    text = limits.text(limits.low)
    if limits.high < INT - 1 and not limits.above and not limits.below:
        return f" from {text}"
    return f", each {text}" if plural else f", {text}"


def _describe_tuple(kinds: tuple[Any, ...], rules: list[Any], plural: bool) -> str:
    lengths = [rule for rule in rules if isinstance(rule, Length)]
    order = ", ascending" if any(rule.ordered for rule in lengths) else ""
    if kinds[-1] is Ellipsis:
        least = max((rule.least for rule in lengths), default=0)
        return f"{least} or more {_describe(kinds[0], plural=True)}{order}"
    if all(kind == kinds[0] for kind in kinds):
        return f"{len(kinds)} {_describe(kinds[0], plural=True)}{order}"
    elements = "; ".join(map(_describe, kinds))
    return f"{'tuples' if plural else 'tuple'} ({elements}){order}"
