"""Self-supervised methods, one file each. `load` builds the method that a config names."""

import importlib
import pkgutil
from types import ModuleType

from jssl.config import Config, UserError, suggest, values
from jssl.core import DatasetInfo, Method, Objective


def load(config: Config, data_info: DatasetInfo) -> Objective | Method:
    """Calls ``build(config, data_info)`` of the module ``config.method``.

    "simclr" is jssl/methods/simclr.py. A dotted name ("my_fork.method") is any module that can be
    imported. The module may have `KEYS`, {name: kind} of the top-level keys of the config that only
    this method has (`jssl.config.values`). They are checked before `build` is called.

    Raises:
      UserError: there is no such module, or a key is wrong.
    """
    method = module(config.method)
    for key, kind in getattr(method, "KEYS", {}).items():
        values.check(f"config.{key}", config[key], kind)
    return method.build(config, data_info)


def module(name: str) -> ModuleType:
    """Imports the module of a method.

    Raises:
      UserError: there is no such module, it cannot be imported, or it has no `build`.
    """
    values.check("config.method", name, str)
    names = [m.name for m in pkgutil.iter_modules(__path__)]
    if "." not in name and name not in names:
        raise UserError(f"config.method={name!r} is unknown; {suggest(name, names)}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"config.method={name!r} is no name of a module, as in my_fork.mine")
    full = name if "." in name else f"{__name__}.{name}"
    try:
        method = importlib.import_module(full)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if full == missing or full.startswith(f"{missing}."):
            raise UserError(
                f"config.method={name!r} is not found; put it beside the recipe, name it as it is "
                f"imported from there, or install it; methods of jssl: {', '.join(names)}"
            ) from None
        raise UserError(
            f"config.method={name!r} imports {missing!r}, which is not there; install it, or put "
            "it beside the recipe"
        ) from None
    except SyntaxError as error:
        where = f"{error.filename} line {error.lineno}"
        raise UserError(f"config.method={name!r}: {where} is not Python: {error.msg}") from None
    if not hasattr(method, "build"):
        raise UserError(f"config.method={name!r} has no build(config, data_info); add one")
    return method
