"""Self-supervised methods, one file each. `load` builds the method that a config names."""

import pkgutil
from types import ModuleType
from typing import Any

from jssl.config import Config, ConfigError, plugins, suggest, values
from jssl.core import DatasetInfo, Method, Objective


def load(config: Config, data_info: DatasetInfo) -> Objective | Method:
    """Calls ``build(config, data_info)`` of the module ``config.method``.

    "simclr" is jssl/methods/simclr.py. A dotted name ("my_fork.method") is any module that can be
    imported. The module may have `KEYS`, {name: kind} of the top-level keys of the config that only
    this method has (`jssl.config.values`). Their values are checked before `build` is called, as
    are those of documented sections (`jssl.config.reference`).

    Raises:
      UserError: there is no such module, or a key is wrong.
    """
    from jssl.config import reference  # it imports this package

    method = module(config.method)
    for key, kind in getattr(method, "KEYS", {}).items():
        values.check(f"config.{key}", config[key], kind)
    for section, kinds in reference.section_kinds(config._tree).items():
        given: Any = config._tree.get(section, {}) if section else {}
        for key, value in given.items():
            if key in kinds:
                values.check(f"config.{section}.{key}", value, kinds[key])
    return method.build(config, data_info)


def module(name: str) -> ModuleType:
    """Imports the module of a method.

    Raises:
      UserError: there is no such module, it cannot be imported, or it has no `build`.
    """
    values.check("config.method", name, str)
    if plugins.is_outside(name):
        method = plugins.import_module_of("config.method", name)
    elif name in names():
        method = plugins.import_module("config.method", f"{__name__}.{name}")
    else:
        raise ConfigError("config.method", name, "unknown", suggest(name, names()))
    if not hasattr(method, "build"):
        raise ConfigError("config.method", name, "has no build(config, data_info)", "add one")
    return method


def names() -> list[str]:
    """The names of the methods of jssl."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))
