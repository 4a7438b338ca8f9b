"""Self-supervised methods, one file each. `load` finds the one that a config names."""

import importlib
import pkgutil
from types import ModuleType

from jssl.config import Config, UserError, suggest, values
from jssl.core import DatasetInfo, Method, Objective


def load(config: Config, data_info: DatasetInfo) -> Objective | Method:
    """``build(config, data_info)`` of the module ``config.method``.

    "simclr" is jssl/methods/simclr.py; a dotted name ("my_fork.method") is any module that can be
    imported.

    `KEYS` of the module, if there is one, is {name: kind} of the keys of the config's top level
    that are the method's own (`jssl.config.values`); they are checked before `build` sees them.
    """
    found = module(config.method)
    for key, kind in getattr(found, "KEYS", {}).items():
        values.check(f"config.{key}", config[key], kind)
    return found.build(config, data_info)


def module(name: str) -> ModuleType:
    """The module of a method. `UserError` if there is none or if it has no `build`."""
    values.check("config.method", name, str)
    known = [m.name for m in pkgutil.iter_modules(__path__)]
    if "." not in name and name not in known:
        raise UserError(f"config.method={name!r} is unknown; {suggest(name, known)}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"config.method={name!r} is no name of a module, as in my_fork.mine")
    full = name if "." in name else f"{__name__}.{name}"
    try:
        found = importlib.import_module(full)
    except ModuleNotFoundError as error:
        lacks = error.name or ""
        if full == lacks or full.startswith(f"{lacks}."):
            raise UserError(
                f"config.method={name!r} is not found; put it beside the recipe, name it as it is "
                f"imported from there, or install it; methods of jssl: {', '.join(known)}"
            ) from None
        raise UserError(
            f"config.method={name!r} imports {lacks!r}, which is not there; install it, or put it "
            "beside the recipe"
        ) from None
    except SyntaxError as error:
        where = f"{error.filename} line {error.lineno}"
        raise UserError(f"config.method={name!r}: {where} is not Python: {error.msg}") from None
    if not hasattr(found, "build"):
        raise UserError(f"config.method={name!r} has no build(config, data_info); add one")
    return found
