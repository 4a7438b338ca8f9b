"""Conversion of weights between jssl's names and layouts and those of other libraries.

A state dict is {name: NumPy array}, as safetensors.numpy.load_file returns it. A conversion changes
names and the order of axes, but no number and no dtype. `from_state`, then `to_state`, gives the
same state dict. The names are in `jssl.interop.layouts`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jssl.config import UserError, suggest
from jssl.interop.kinds import KINDS, Convert
from jssl.interop.layouts import LAYOUTS, Layout

Array = np.ndarray


class Numbers(NamedTuple):
    """How the number of a layer is written in our names and in theirs.

    Attributes:
      pattern: a regular expression of theirs.
      theirs: ours -> theirs.
      ours: theirs -> ours.
    """

    pattern: str
    theirs: Callable[[str], str]
    ours: Callable[[str], str]


def to_stage(number: str) -> str:
    """The block of a ResNet in transformers: "1_0" -> "0.layers.0"."""
    stage, block = number.split("_")
    return f"{int(stage) - 1}.layers.{block}"


def from_stage(number: str) -> str:
    """The inverse of `to_stage`."""
    stage, block = number.split(".layers.")
    return f"{int(stage) + 1}_{block}"


NUMBERS = {
    "same": Numbers(r"\d+", str, str),
    "dotted": Numbers(r"\d+\.\d+", lambda n: n.replace("_", "."), lambda n: n.replace(".", "_")),
    "stages": Numbers(r"\d+\.layers\.\d+", to_stage, from_stage),
}


class Rule(NamedTuple):
    """One or several of our tensors, and one or several of theirs that hold the same numbers."""

    ours: list[str]
    theirs: list[str]
    read: Convert
    write: Convert


def rules(
    layout: Layout, *, ours: Iterable[str] = (), theirs: Iterable[str] = (), table: str = ""
) -> list[Rule]:
    """The rules of a layout for the tensors that exist on one side.

    Args:
      layout: the layout.
      ours: our tensors, "blocks/0/attn/qkv/kernel"; or
      theirs: the tensors of a state dict.
      table: other lines than those of the encoder, such as ``layout.heads``.
    """
    numbers = NUMBERS[layout.numbers]
    present = sorted({*ours, *theirs})
    side = 1 if theirs else 0
    pattern, to_other = [(r"\w+", numbers.theirs), (numbers.pattern, numbers.ours)][side]
    result: list[Rule] = []
    covered: set[str] = set()
    for line in filter(str.strip, (table or layout.table).splitlines()):
        our_line, their_line, kind = line.split()
        names = (alternatives(our_line, "/"), alternatives(their_line, "."))
        for *ends, read, write in KINDS[kind]:
            known = re.escape(names[side][0] + ends[side]).replace(r"\*", f"({pattern})")
            for match in filter(None, (re.fullmatch(known, name) for name in present)):
                label = match[1] if match.groups() else ""
                labels = [to_other(label) if label else ""] * 2
                labels[side] = label
                both = [
                    [(name + ends[i]).replace("*", labels[i]) for name in names[i]] for i in (0, 1)
                ]
                if covered.isdisjoint(both[side]) and set(both[side]) <= set(present):
                    covered.update(both[side])
                    result.append(Rule(both[0], both[1], read, write))
    return result


def alternatives(name: str, separator: str) -> list[str]:
    """The names in "a.b|c": "a.b" and "a.c"."""
    stem, dot, parts = name.rpartition(separator)
    return [stem + dot + part for part in parts.split("|")]


def layout(name: str) -> Layout:
    """The layout of this name; raises `UserError` if there is none."""
    if name not in LAYOUTS:
        raise UserError(f"weights of {name!r} are not known; {suggest(name, LAYOUTS)}")
    return LAYOUTS[name]


def bare_names(name: str, state: Iterable[str]) -> dict[str, str]:
    """{name without prefix and in today's form: name in the state dict}."""
    known = layout(name)
    bare = {}
    for key in state:
        short = key.removeprefix(known.prefix)
        for old, new in known.renamed:
            short = short.replace(old, new)
        bare[short] = key
    return bare


def from_state(
    name: str, state: Mapping[str, Any], table: str = "", strict: bool = True
) -> dict[str, Array]:
    """Our tensors of a state dict, {"blocks/0/attn/qkv/kernel": array}.

    Args:
      name: a key of `LAYOUTS`.
      state: {name: array} of a model of that library.
      table: other lines than those of the encoder, such as ``layout.heads``.
      strict: whether a tensor without a place is an error.

    Raises:
      UserError: a tensor is not expected, or has no bias or weight beside it.
    """
    known = layout(name)
    bare = bare_names(name, state)
    all_rules = rules(known, theirs=bare, table=table)
    covered = {key for rule in all_rules for key in rule.theirs}
    extra = sorted(key for key in bare if key not in covered and not re.match(known.left, key))
    if strict and extra:
        more = f" and {len(extra) - 1} more" if extra[1:] else ""
        raise UserError(f"the state dict, read as {name}, has no place for {extra[0]!r}{more}")
    found: dict[str, Array] = {}
    for rule in all_rules:
        arrays = [np.asarray(state[bare[key]]) for key in rule.theirs]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        for ours, part in zip(rule.ours, np.split(joined, len(rule.ours)), strict=True):
            found[ours] = rule.read(part, 0)
    return found


def used(name: str, state: Iterable[str]) -> set[str]:
    """The names of a state dict that the layout of this name reads."""
    known = layout(name)
    bare = bare_names(name, state)
    tables = [known.table] + ([known.heads] if known.heads else [])
    read = [rule for table in tables for rule in rules(known, theirs=bare, table=table)]
    return {bare[key] for rule in read for key in rule.theirs}


def to_state(
    name: str, ours: Mapping[str, Array], channels: int = 3, table: str = ""
) -> dict[str, Array]:
    """The inverse of `from_state`.

    Args:
      name: a key of `LAYOUTS`.
      ours: {name: array} of our tensors, as `flat` returns them.
      channels: of the images.
      table: other lines than those of the encoder, such as ``layout.heads``.

    Raises:
      UserError: a parameter is missing or unexpected.
    """
    all_rules = rules(layout(name), ours=ours, table=table)
    covered = {key for rule in all_rules for key in rule.ours}
    extra = sorted(ours.keys() - covered)
    if extra and not table:
        more = f" and {len(extra) - 1} more" if extra[1:] else ""
        raise UserError(f"{name} has no place for the encoder's {extra[0]!r}{more}")
    state = {}
    for rule in all_rules:
        written = [rule.write(np.asarray(ours[key]), channels) for key in rule.ours]
        joined = written[0] if len(written) == 1 else np.concatenate(written)
        for their_name, array in zip(rule.theirs, np.split(joined, len(rule.theirs)), strict=True):
            state[their_name] = np.ascontiguousarray(array)
    return state


def flat(params: Mapping[str, Any], stats: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parameters and BatchNorm statistics by name; stacked layers (`model.scan`) one by one."""
    named: dict[str, Any] = flatten_dict(params, sep="/") | flatten_dict(stats or {}, sep="/")
    result = {}
    for key, value in named.items():
        before, stacked, after = key.partition("blocks/layers/")
        if not stacked:
            result[key] = value
            continue
        for i in range(value.shape[0]):
            one = value[i] if isinstance(value, Array) else Shape(value.shape[1:])
            result[f"{before}blocks/{i}/{after}"] = one
    return result


class Shape(NamedTuple):
    """Stands for an array of which only the shape is known."""

    shape: tuple[int, ...]


def like(tree: Mapping[str, Any], named: Mapping[str, Array]) -> dict[str, Any]:
    """The tensors of `named` in the structure of `tree`, parameters or statistics; see `flat`."""
    result = {}
    leaves: dict[str, Any] = flatten_dict(tree, sep="/")
    for key, value in leaves.items():
        before, stacked, after = key.partition("blocks/layers/")
        if stacked:
            depth = range(value.shape[0])
            result[key] = np.stack([named[f"{before}blocks/{i}/{after}"] for i in depth])
        else:
            result[key] = named[key]
    return unflatten_dict(result, sep="/")
