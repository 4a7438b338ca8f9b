"""Self-supervised methods, one file each. `load` finds the one that a config names."""

import importlib
import pkgutil

from jssl.config import UserError, near
from jssl.core import Method


def load(config) -> Method:
    """``build(config)`` of the module ``config.method``: "simclr" is jssl/methods/simclr.py; a
    dotted name ("my_fork.method") is any importable module."""
    name = config.method
    module = name if "." in name else f"jssl.methods.{name}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or ""):
            raise  # the method exists; something that it imports does not
        known = [m.name for m in pkgutil.iter_modules(__path__)]
        raise UserError(f"config.method={name!r} cannot be imported; {near(name, known)}") from None
    if not hasattr(found, "build"):
        raise UserError(f"config.method={name!r} has no build(config) -> Method; add one")
    return found.build(config)
