"""Configs: load a recipe, apply the command line's overrides, say what is wrong in one line.

A recipe is a Python file with ``get_config(variant="")`` that returns a `ConfigDict` of literals,
usually made by `jssl.recipes.recipe`. A section of it is the keyword arguments of one function, so
that the function's signature *is* the schema: `bind` checks names and types against it and calls
it.
`Config` is the read-only view that methods get; it remembers what was read, so that a key that
nothing reads (a typo in a fork) is an error and not a silent default.
"""

import ast
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Callable
from typing import Any

import ml_collections

from jssl import trust, values
from jssl.errors import UserError, near


def load(spec: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """The config of ``path/to/recipe.py[:variant]`` with ``{"optim.lr": "0.3"}`` laid over it."""
    config = read(spec)
    for key, text in (overrides or {}).items():
        section, name = locate(config, key)
        with config.ignore_type():  # a duration is a number or a text
            section[name] = parse(f"config.{key}", text, section[name])
    trust.name_method(config.get("method"))
    return config


def read(spec: str) -> ml_collections.ConfigDict:
    """What ``get_config`` of ``path/to/recipe.py[:variant]`` returns. `UserError` in one line for
    whatever a recipe may do wrong."""
    path, variant = spec, ""
    if ":" in spec and not expanded(spec).is_file():
        path, _, variant = spec.rpartition(":")
    file = expanded(path)
    if not file.is_file():
        others = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"--config={path} is not a file; {near(path, others)}")
    found = importlib.util.spec_from_file_location("jssl_recipe", file)
    if found is None:
        raise UserError(f"--config={path} is not a Python file (.py); see configs/ for examples")
    module = importlib.util.module_from_spec(found)
    trust.grant(file)  # the user names this file, so what lies beside it may be imported
    try:
        found.loader.exec_module(module)
        make = getattr(module, "get_config", None)
        config = None if make is None else call(make, variant, path)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={path} line {error.lineno} is not Python: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={path}{line_of(error, file)}: {said_by(error)}") from error
    if make is None:
        raise UserError(f"--config={path} has no get_config(variant); see configs/ for examples")
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returns {type(config).__name__} and no ConfigDict; "
            "return jssl.recipes.recipe(variant, sections)"
        )
    try:
        flatten(config)
    except TypeError:  # ConfigDict sorts its keys
        raise UserError(
            f"--config={path}: a key of its config is not a string; use only strings as keys"
        ) from None
    return config


def expanded(path: str) -> pathlib.Path:
    """The path with the home folder for ~, where there is one."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        return pathlib.Path(path)


def call(make: Callable, variant: str, path: str) -> Any:
    """``make(variant)``, or ``make()`` of a recipe that has no variants."""
    if not callable(make):
        raise UserError(f"--config={path}: get_config is no function; see configs/ for examples")
    wants = inspect.signature(make).parameters.values()
    if any(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.VAR_POSITIONAL)
           for one in wants):  # fmt: skip
        return make(variant)
    if variant:
        raise UserError(f"--config={path} has no variants, and so no {variant!r}; leave it out")
    return make()


def line_of(error: BaseException, file: pathlib.Path) -> str:
    """As in " line 12": the file's last line that the error went through; "" if there is none."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f" line {lines[-1]}" if lines else ""


def said_by(error: BaseException) -> str:
    """The type and the message of an error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def locate(config, dotted: str):
    """(section, last name) of ``a.b.c``; `UserError` naming the nearest known key if it is not."""
    section, path = config, "config"
    *parents, name = dotted.split(".")
    for part in parents:
        if part not in section or not isinstance(section[part], ml_collections.ConfigDict):
            cure = near(part, section.keys())
            raise UserError(f"{path}.{part} is not a section; {elsewhere(config, dotted) or cure}")
        section, path = section[part], f"{path}.{part}"
    if name not in section:
        cure = elsewhere(config, dotted) or near(name, section.keys())
        raise UserError(f"{path}.{name} is not a key; {cure}")
    return section, name


def elsewhere(config, dotted: str) -> str:
    """The cure for a key that other sections have: ``lr`` is ``optim.lr``; "" if none has."""
    keys = [key.removeprefix("config.") for key in flatten(config)]
    found = [key for key in keys if key.endswith(f".{dotted}")]
    return f"did you mean {' or '.join(map(repr, found[:3]))}?" if found else ""


def parse(key: str, text: str, old):
    """`text` from the command line as a value of the type of `old`."""
    kind, given = type(old).__name__, values.short(text)
    wrong = UserError(f"{key}={given} must be of type {kind}, as in {key}={old!r}")
    if isinstance(old, ml_collections.ConfigDict):
        raise UserError(f"{key} is a section; set one of its keys: {', '.join(sorted(old))}")
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
        if old and not all(number(one) == number(old[0]) for one in value):
            raise wrong
        return value
    if not number(old):
        raise UserError(f"{key}={old!r} of the recipe is no literal that can be changed here")
    if not number(value) or (isinstance(old, int) and value != value // 1):
        raise wrong
    try:
        return type(old)(value)
    except OverflowError:
        raise wrong from None


def number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Config:
    """Read-only view of a config that remembers which keys were read."""

    def __init__(self, tree, path: str = "config", seen: set | None = None):
        self.__dict__.update(_tree=tree, _path=path, _seen=set() if seen is None else seen)

    def __getitem__(self, key):
        if key not in self._tree:
            raise UserError(f"{self._path}.{key} is missing; {near(key, self._tree.keys())}")
        path, value = f"{self._path}.{key}", self._tree[key]
        if isinstance(value, ml_collections.ConfigDict):
            return Config(value, path, self._seen)
        self._seen.add(path)
        return value

    __getattr__ = __getitem__

    def __contains__(self, key):
        return key in self._tree

    def keys(self):
        return self._tree.keys()

    def changed(self, values: dict):
        """A copy in which those of ``{"model.remat": ...}`` that exist have other values; what is
        read of it counts as read here."""
        tree = self._tree.copy_and_resolve_references().unlock()
        flat = flatten(tree)
        tree.update_from_flattened_dict({k: v for k, v in values.items() if f"config.{k}" in flat})
        return Config(tree, seen=self._seen)

    def unread(self) -> list[str]:
        """Every key, dotted, that nothing has read so far."""
        flat = flatten(self._tree, self._path)
        return [key for key in flat if key not in self._seen]


def local(key: str, folder: str) -> str:
    """`folder`; `UserError` if it is an address and no path."""
    if "://" in folder:
        raise UserError(
            f"{key}={folder} is no folder; mount it (Cloud Storage FUSE), name the mount"
        )
    return folder


def flatten(tree, path: str = "config") -> dict:
    """``{"config.optim.lr": 0.3, ...}`` of a nested config."""
    flat = {}
    for key, value in tree.items():
        inner = isinstance(value, ml_collections.ConfigDict)
        flat.update(flatten(value, f"{path}.{key}") if inner else {f"{path}.{key}": value})
    return flat


def bind(function: Callable, section, prefix: str, /, **given) -> Any:
    """``function(**section, **given)`` after checking `section` against the signature.

    An unknown key, a missing key or a value that is not of the kind that the signature says
    (`jssl.values`) is a `UserError` that names ``config.<prefix>.<key>``.
    """
    kinds = values.kinds_of(function)
    kinds = {name: kind for name, kind in kinds.items() if name not in given}
    section = dict(section) if hasattr(section, "keys") else section
    values.check_all(f"config.{prefix}", section, kinds)
    wants = inspect.signature(function).parameters
    needed = [name for name in kinds if wants[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in section]
    if missing:
        raise UserError(f"config.{prefix}.{missing[0]} is missing; add it to the recipe")
    return function(**section, **given)
