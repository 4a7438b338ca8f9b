"""Configs: load a recipe, apply the overrides of the command line, report errors in one line.

A recipe is a Python file with ``get_config(variant="")`` that returns a `ConfigDict` of literals,
usually made by `jssl.recipes.recipe`. A section of it is the keyword arguments of one function, so
that the function's signature *is* the schema: `call_with_section` checks names and types against it
and calls it. `Config` is the read-only view that methods get. It records the keys that are read, so
that a key that nothing reads (a typo in a fork) is an error and not a silent default.
"""

import ast
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from jssl.config import trust, values
from jssl.errors import MissingKeyError, UserError, suggest


def load(spec: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """Loads the config of a recipe and applies overrides.

    Args:
      spec: ``path/to/recipe.py[:variant]``.
      overrides: ``{"optim.lr": "0.3"}``; the values are texts, as on the command line.

    Raises:
      UserError: the recipe does not load, or an override has an unknown key or a wrong type.
    """
    config = read(spec)
    for key, text in (overrides or {}).items():
        section, name = resolve_key(config, key)
        with config.ignore_type():  # a duration is a number or a text
            section[name] = parse(f"config.{key}", text, section[name])
    trust.name_method(config.get("method"))
    return config


def read(spec: str) -> ml_collections.ConfigDict:
    """Executes ``path/to/recipe.py[:variant]`` and returns the result of its ``get_config``.

    Raises:
      UserError: one line for any fault of the recipe.
    """
    path = spec
    variant = ""
    if ":" in spec and not expanded(spec).is_file():
        path, _, variant = spec.rpartition(":")
    file = expanded(path)
    if not file.is_file():
        others = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"--config={path} is not a file; {suggest(path, others)}")
    config = _execute(file, path, variant)
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


def _execute(file: pathlib.Path, path: str, variant: str) -> Any:
    """Imports the recipe `file`, which the user named as `path`, and calls its ``get_config``."""
    module_spec = importlib.util.spec_from_file_location("jssl_recipe", file)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config={path} is not a Python file (.py); see configs/ for examples")
    module = importlib.util.module_from_spec(module_spec)
    trust.grant(file)  # the user names this file, so modules in its folder may be imported
    try:
        module_spec.loader.exec_module(module)
        make = getattr(module, "get_config", None)
        config = None if make is None else call(make, variant, path)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={path} line {error.lineno} is not Python: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--config={path}{line_of(error, file)}: {describe_error(error)}"
        ) from error
    if make is None:
        raise UserError(f"--config={path} has no get_config(variant); see configs/ for examples")
    return config


def expanded(path: str) -> pathlib.Path:
    """The path with ~ replaced by the home folder, if a home folder is known."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        return pathlib.Path(path)


def call(make: Callable, variant: str, path: str) -> Any:
    """Calls ``make(variant)``, or ``make()`` for a recipe that has no variants."""
    if not callable(make):
        raise UserError(f"--config={path}: get_config is no function; see configs/ for examples")
    parameters = inspect.signature(make).parameters.values()
    if any(
        parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
        for parameter in parameters
    ):
        return make(variant)
    if variant:
        raise UserError(f"--config={path} has no variants, and so no {variant!r}; leave it out")
    return make()


def line_of(error: BaseException, file: pathlib.Path) -> str:
    """Formats the last line of `file` in the traceback as " line 12"; "" if there is none."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f" line {lines[-1]}" if lines else ""


def describe_error(error: BaseException) -> str:
    """Formats the type and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


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
                f"{path}.{parent} is not a section; {elsewhere(config, dotted) or cure}"
            )
        section = section[parent]
        path = f"{path}.{parent}"
    if name not in section:
        cure = elsewhere(config, dotted) or suggest(name, section.keys())
        raise UserError(f"{path}.{name} is not a key; {cure}")
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
    shown = values.short(text)
    wrong = UserError(f"{key}={shown} must be of type {kind}, as in {key}={old!r}")
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
        if old and not all(is_number(element) == is_number(old[0]) for element in value):
            raise wrong
        return value
    if not is_number(old):
        raise UserError(f"{key}={old!r} of the recipe is no literal that can be changed here")
    if not is_number(value) or (isinstance(old, int) and value != value // 1):
        raise wrong
    try:
        return type(old)(value)
    except OverflowError:
        raise wrong from None


def is_number(value: object) -> bool:
    """Whether the value is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Config:
    """A read-only view of a config that records which keys were read.

    A key is read as an attribute or an item: ``config.optim.lr``, ``config["optim"]["lr"]``.

    Args:
      tree: the config.
      path: the name of this section, for messages.
      seen: the dotted keys that were read so far; the view adds to it.
    """

    _tree: ml_collections.ConfigDict
    _path: str
    _seen: set[str]

    def __init__(
        self,
        tree: ml_collections.ConfigDict,
        path: str = "config",
        seen: set[str] | None = None,
    ) -> None:
        self.__dict__.update(_tree=tree, _path=path, _seen=set() if seen is None else seen)

    def __getitem__(self, key: str) -> Any:
        if key not in self._tree:
            keys = self._tree.keys()
            raise MissingKeyError(f"{self._path}.{key} is missing; {suggest(key, keys)}")
        path = f"{self._path}.{key}"
        value = self._tree[key]
        if isinstance(value, ml_collections.ConfigDict):
            return Config(value, path, self._seen)
        self._seen.add(path)
        return value

    def __getattr__(self, key: str) -> Any:
        # `copy` and `pickle` look for their hooks on an object that has no tree yet.
        if "_tree" not in self.__dict__ or key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __contains__(self, key: object) -> bool:
        return key in self._tree

    def keys(self) -> Iterable[str]:
        """The names of the keys and sections."""
        return self._tree.keys()

    def changed(self, values: dict[str, Any]) -> "Config":
        """Returns a copy with other values, ``{"model.remat": ...}``, for the keys that exist.

        Keys that are read from the copy count as read from this config.
        """
        tree = self._tree.copy_and_resolve_references().unlock()
        flat = flatten(tree)
        tree.update_from_flattened_dict({k: v for k, v in values.items() if f"config.{k}" in flat})
        return Config(tree, seen=self._seen)

    def unread(self) -> list[str]:
        """Returns the dotted keys that nothing has read so far."""
        flat = flatten(self._tree, self._path)
        return [key for key in flat if key not in self._seen]


def require_local_path(key: str, folder: str) -> str:
    """Returns `folder`; raises `UserError` if it is an address and no path."""
    if "://" in folder:
        raise UserError(
            f"{key}={folder} is no folder; mount it (Cloud Storage FUSE), name the mount"
        )
    return folder


def flatten(tree: ml_collections.ConfigDict, path: str = "config") -> dict[str, Any]:
    """Flattens a nested config to ``{"config.optim.lr": 0.3, ...}``."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update(flatten(value, f"{path}.{key}"))
        else:
            flat[f"{path}.{key}"] = value
    return flat


def call_with_section(
    function: Callable[..., Any], section: Any, prefix: str, /, **arguments: Any
) -> Any:
    """Calls ``function(**section, **arguments)`` after checking `section` against its signature.

    Args:
      function: any callable; its type hints are the kinds of the keys (`jssl.config.values`).
      section: a section of a config, or a dict.
      prefix: the name of the section, for messages.
      **arguments: other arguments of `function`, which are not checked.

    Raises:
      UserError: an unknown key, a missing key or a value of another kind; the message names
        ``config.<prefix>.<key>``.
    """
    kinds = values.kinds_of(function)
    kinds = {name: kind for name, kind in kinds.items() if name not in arguments}
    section = dict(section) if hasattr(section, "keys") else section
    values.check_all(f"config.{prefix}", section, kinds)
    parameters = inspect.signature(function).parameters
    required = [name for name in kinds if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in section]
    if missing:
        raise UserError(f"config.{prefix}.{missing[0]} is missing; add it to the recipe")
    return function(**section, **arguments)
