"""Configs: load a recipe, apply the command line's overrides, say what is wrong in one line.

A recipe is a Python file with ``get_config(variant="")`` that returns a `ConfigDict` of literals,
usually made by `jssl.recipes.recipe`. A section of it is the keyword arguments of one function, so
that the function's signature *is* the schema: `bind` checks names and types against it and calls
it.
`Config` is the read-only view that methods get; it remembers what was read, so that a key that
nothing reads (a typo in a fork) is an error and not a silent default.
"""

import ast
import difflib
import importlib.util
import inspect
import pathlib

import ml_collections


class UserError(Exception):
    """The user's input is wrong. One line: key, value, cure. The command exits with 2."""


def near(word, choices) -> str:
    """The cure for a name that is not known: the nearest known one, and all, if they are few."""
    known = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    cure = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 12 or not close:
        cure.append(f"known: {', '.join(known) or 'none'}")
    return " ".join(cure)


def load(spec: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """The config of ``path/to/recipe.py[:variant]`` with ``{"optim.lr": "0.3"}`` laid over it."""
    path, _, variant = spec.partition(":")
    if not pathlib.Path(path).is_file():
        folder = pathlib.Path(path).parent
        others = [str(p) for p in folder.glob("*.py")] if folder.is_dir() else []
        raise UserError(f"--config={path} is not a file; {near(path, others)}")
    module = importlib.util.spec_from_file_location("jssl_recipe", path)
    if module is None:
        raise UserError(f"--config={path} is not a Python file (.py); see configs/ for examples")
    loaded = importlib.util.module_from_spec(module)
    try:
        module.loader.exec_module(loaded)
    except SyntaxError as error:
        raise UserError(f"--config={path} line {error.lineno} is not Python: {error.msg}") from None
    if not hasattr(loaded, "get_config"):
        raise UserError(f"--config={path} has no get_config(variant); see configs/ for examples")
    config = loaded.get_config(variant)
    for key, text in (overrides or {}).items():
        section, name = locate(config, key)
        section[name] = parse(f"config.{key}", text, section[name])
    return config


def locate(config, dotted: str):
    """(section, last name) of ``a.b.c``; `UserError` naming the nearest known key if it is not."""
    section, path = config, "config"
    *parents, name = dotted.split(".")
    for part in parents:
        if part not in section or not isinstance(section[part], ml_collections.ConfigDict):
            raise UserError(f"{path}.{part} is not a section; {near(part, section.keys())}")
        section, path = section[part], f"{path}.{part}"
    if name not in section:
        raise UserError(f"{path}.{name} is not a key; {near(name, section.keys())}")
    return section, name


def parse(key: str, text: str, old):
    """`text` from the command line as a value of the type of `old`."""
    wrong = UserError(f"{key}={text!r} must be of type {type(old).__name__}, as in {key}={old!r}")
    if isinstance(old, ml_collections.ConfigDict):
        raise UserError(f"{key} is a section; set one of its keys: {', '.join(sorted(old))}")
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise wrong
        return text.lower() in ("true", "1")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise wrong from None
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if old and not all(number(one) == number(old[0]) for one in value):
            raise wrong
        return value
    if not number(value) or (isinstance(old, int) and value != value // 1):
        raise wrong
    return type(old)(value)


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


def above(config, low, *keys) -> None:
    """`UserError` unless each of ``config.<key>`` is a number above `low`."""
    for key in keys:
        if not config[key] > low:
            raise UserError(f"{config._path}.{key}={config[key]} must be above {low}")


def flatten(tree, path: str = "config") -> dict:
    """``{"config.optim.lr": 0.3, ...}`` of a nested config."""
    flat = {}
    for key, value in tree.items():
        inner = isinstance(value, ml_collections.ConfigDict)
        flat.update(flatten(value, f"{path}.{key}") if inner else {f"{path}.{key}": value})
    return flat


KINDS = {int: (int,), float: (int, float), str: (str,), bool: (bool,), tuple: (tuple, list)}


def bind(function, section, prefix: str, /, **given):
    """``function(**section, **given)`` after checking `section` against the signature.

    An unknown key, a missing key or a value of the wrong type is a `UserError` that names
    ``config.<prefix>.<key>``.
    """
    wants = inspect.signature(function).parameters
    values, names = dict(section), [name for name in wants if name not in given]
    for key, value in values.items():
        if key not in names:
            raise UserError(f"config.{prefix}.{key} is not a key; {near(key, names)}")
        kinds = KINDS.get(wants[key].annotation, (object,))
        if not isinstance(value, kinds) or (
            isinstance(value, bool) and bool not in kinds + (object,)
        ):
            want = wants[key].annotation.__name__
            raise UserError(f"config.{prefix}.{key}={value!r} must be of type {want}")
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"config.{prefix}.{missing[0]} is missing; add it to the recipe")
    return function(**values, **given)
