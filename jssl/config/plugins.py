"""Code from outside jssl, by a dotted name, as in ``config.data.source="my_fork.pages"``.

| what | where it is named | what is called |
|---|---|---|
| method | ``config.method`` | ``build(config, data_info)``, see `jssl.methods.load` |
| source | ``config.data.source`` | ``build(split=..., ...)``, see `jssl.data.sources.outside` |
| encoder | ``config.model.name`` | ``build(**model)``, see `jssl.nn.encoder` |
| optimizer | ``config.optim.name`` | see `jssl.optim.outside` |
| observer | ``config.log.observers`` | ``build(run, workdir)``, see `jssl.training.loop` |
| protocol | ``--protocol`` | ``evaluate(...)``, see `jssl.commands.evaluate` |

A dotted name is a module that has the function, or it is a function in a module ("optax.lion").
`jssl.config.trust` says from which folders modules are imported.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from jssl.errors import ConfigError

# Of a stored run, these are imported only if the command names them.
STORED = ("method", "data.source", "model.name", "optim.name")
KEYS = (*STORED, "log.observers")


def is_outside(name: object) -> bool:
    """Whether a name is a dotted one, of code outside jssl."""
    return isinstance(name, str) and "." in name


def names(config: Any, keys: Iterable[str] = KEYS) -> dict[str, list[str]]:
    """Returns {key: its dotted names} of a config, for those of `keys` that have any."""
    found = {}
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if hasattr(value, "get") else None
        dotted = [name for name in as_tuple(value) if is_outside(name)]
        if dotted:
            found[key] = dotted
    return found


def as_tuple(value: Any) -> tuple[Any, ...]:
    """The elements of a tuple or a list, or the one value."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def resolve(key: str, name: str, function: str = "build") -> Callable[..., Any]:
    """Imports what a dotted name means: ``function`` of a module, or the named function itself.

    Raises:
      UserError: there is no such module or function, or it cannot be imported.
    """
    module = import_module_of(key, name)
    last = name.rpartition(".")[2] if module.__name__ != name else function
    made = getattr(module, last, None)
    if not callable(made):
        raise ConfigError(key, name, f"has no function {last}", "add one to that module")
    return made


def import_module_of(key: str, name: str) -> ModuleType:
    """Imports the module that a dotted name means, or that has the function which it means.

    Raises:
      UserError: as `resolve`.
    """
    parent, _, last = name.rpartition(".")
    try:
        return import_module(key, name)
    except NotFound as error:
        try:
            module = import_module(key, parent)
        except NotFound:
            raise error from None
        if not hasattr(module, last):
            raise
        return module


class NotFound(ConfigError):
    """There is no such module."""


def import_module(key: str, name: str) -> ModuleType:
    """Imports a module by its full name.

    Args:
      key: the key or flag that names it, for messages.
      name: the name, as in ``import name``.

    Raises:
      NotFound: there is no such module.
      UserError: it is no name of a module, or the module cannot be imported.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(key, name, "no name of a module", "write it as in my_fork.mine")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise NotFound(
                key,
                name,
                "not found",
                "put it beside the recipe that --config names, name its folder with --path=DIR, or "
                "install it",
            ) from None
        raise ConfigError(
            key,
            name,
            f"imports {missing!r}, which is not there",
            "install it, or put it beside the recipe",
        ) from None
    except SyntaxError as error:
        where = f"{error.filename} line {error.lineno}"
        problem = f"{where} is not Python: {error.msg}"
        raise ConfigError(key, name, problem, "correct that line") from None


def taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the `offered` keyword arguments that the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    known = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in offered.items() if name in known}
