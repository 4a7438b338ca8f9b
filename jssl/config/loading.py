"""Loads the config of a recipe, and applies the overrides of the command line."""

import ast
import importlib.util
import inspect
import itertools
import os
import pathlib
import tokenize
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from jssl.config import plugins, trust
from jssl.config.tree import flatten, parse, resolve_key
from jssl.errors import ConfigError, UserError, suggest

PATH_SECTIONS = ("init_from", "teacher")  # a text in place of such a section is its key `path`


def load(spec: str, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """Loads the config of a recipe and applies overrides.

    An override of ``model.name`` by an encoder of another family (ResNet, ViT, text, a module
    outside jssl) replaces the whole section `model` (`jssl.recipes.model_section`). An override of
    ``optim.name`` resets the settings of the optimizer before (`jssl.recipes.reset_unused`).

    Args:
      spec: ``path/to/recipe.py[:variant]``, or the name of a recipe of jssl:
        ``simclr_cifar10[:variant]``.
      overrides: ``{"optim.lr": 0.3}``. A text is parsed as on the command line.

    Raises:
      UserError: the recipe does not load, or an override has an unknown key or a wrong type.
    """
    from jssl import recipes

    config = read(spec)
    overrides = dict(overrides or {})
    trust.name(*itertools.chain(*plugins.names(config).values()))
    if (encoder := overrides.get("model.name")) is not None:
        trust.name(str(encoder))
        recipes.swap_model(config, str(encoder))
    override(config, overrides)
    recipes.reset_unused(config, overrides)
    return config


def override(config: ml_collections.ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Sets keys of a config in place, and records the modules that they name as trusted.

    Raises:
      UserError: a key is unknown, or a text is no value of its type.
    """
    for key, value in overrides.items():
        section, name = resolve_key(config, key)
        if name in PATH_SECTIONS and isinstance(value, str):
            section = section[name]
            name = "path"
        if isinstance(value, str):
            value = parse(f"config.{key}", value, section[name])
        with config.ignore_type(), config.unlocked():  # a duration is a number or a text
            section[name] = value
    named = [key for key in plugins.KEYS if key in overrides]
    trust.name(*itertools.chain(*plugins.names(config, named).values()))


def read(spec: str) -> ml_collections.ConfigDict:
    """Executes a recipe and returns the result of its ``get_config``, over the defaults.

    Raises:
      UserError: one line for any fault of the recipe.
    """
    from jssl import recipes

    file, path, variant = locate(spec)
    config = _execute(file, path, variant)
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            "config",
            path,
            f"get_config() returns {type(config).__name__} and no ConfigDict",
            "return jssl.recipes.recipe(variant, sections)",
        )
    try:
        flatten(config)
    except TypeError:  # ConfigDict sorts its keys
        raise ConfigError(
            "config", path, "a key of its config is not a string", "use only strings as keys"
        ) from None
    return recipes.recipe("", config)


def locate(spec: str) -> tuple[pathlib.Path, str, str]:
    """Splits ``recipe[:variant]`` into (file, recipe, variant).

    Raises:
      UserError: there is no such file, and no recipe of jssl has the name.
    """
    path = spec
    variant = ""
    if ":" in spec and not expanded(spec).is_file():
        path, _, variant = spec.rpartition(":")
    known = shipped()
    file = known.get(path) or expanded(path)
    if not file.is_file():
        others = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        cure = suggest(path, others)
        if file.stem in known:
            cure = f"use the recipe of jssl: --config={spec.replace(path, file.stem)}"
        elif os.sep not in path:
            cure = suggest(path, known)
        raise ConfigError("config", path, "not a file", cure)
    return file, path, variant


def record(spec: str) -> dict[str, str]:
    """Returns the name and the text of a recipe, which a run keeps for the record."""
    file, _, _ = locate(spec)
    with tokenize.open(file) as source:  # in the encoding that the file declares
        return {"name": spec, "text": source.read()}


def docstring(spec: str) -> str:
    """Returns the docstring of a recipe; "" if it has none."""
    return ast.get_docstring(ast.parse(record(spec)["text"])) or ""


def shipped() -> dict[str, pathlib.Path]:
    """Returns {name: file} of the recipes of jssl.

    They are in the package ``jssl.configs`` of an installed jssl, and beside `jssl` in a checkout.
    """
    package = pathlib.Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
    return {}


def _execute(file: pathlib.Path, path: str, variant: str) -> Any:
    """Imports the recipe `file`, which the user named as `path`, and calls its ``get_config``."""
    module_spec = importlib.util.spec_from_file_location("jssl_recipe", file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError("config", path, "not a Python file (.py)", "see configs/ for examples")
    module = importlib.util.module_from_spec(module_spec)
    if file not in shipped().values():
        trust.grant(file)  # the user names this file, so modules in its folder may be imported
    try:
        module_spec.loader.exec_module(module)
        make = getattr(module, "get_config", None)
        config = None if make is None else call(make, variant, path)
    except UserError:
        raise
    except SyntaxError as error:
        problem = f"line {error.lineno} is not Python: {error.msg}"
        raise ConfigError("config", path, problem, "correct that line") from None
    except (Exception, SystemExit) as error:
        problem = f"{line_of(error, file)}{describe_error(error)}"
        raise ConfigError("config", path, problem, "correct the recipe") from error
    if make is None:
        raise ConfigError("config", path, "has no get_config(variant)", "see configs/ for examples")
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
        raise ConfigError("config", path, "get_config is no function", "see configs/ for examples")
    parameters = inspect.signature(make).parameters.values()
    if any(
        parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
        for parameter in parameters
    ):
        return make(variant)
    if variant:
        raise ConfigError("config", path, f"has no variants, and no {variant!r}", "leave it out")
    return make()


def line_of(error: BaseException, file: pathlib.Path) -> str:
    """Formats the last line of `file` in the traceback as "line 12: "; "" if there is none."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f"line {lines[-1]}: " if lines else ""


def describe_error(error: BaseException) -> str:
    """Formats the type and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
