"""Configs: load a recipe, apply the overrides of the command line, report errors in one line.

A recipe is a Python file with ``get_config(variant="")`` that returns a `ConfigDict` of literals,
usually made by `jssl.recipes.recipe`. A section of it is the keyword arguments of one function, so
that the function's signature *is* the schema: `call_with_section` checks names and types against it
and calls it. `Config` is the read-only view that methods get. It records the keys that are read, so
that a key that nothing reads (a typo in a fork) is an error and not a silent default.
"""

from jssl.config.loading import docstring, load, override, read, record, shipped
from jssl.config.paths import require_local_path
from jssl.config.tree import flatten, parse, resolve_key
from jssl.config.view import Config, call_with_section
from jssl.errors import ConfigError, MissingKeyError, UserError, suggest

__all__ = [
    "Config",
    "ConfigError",
    "MissingKeyError",
    "UserError",
    "call_with_section",
    "docstring",
    "flatten",
    "load",
    "override",
    "parse",
    "read",
    "record",
    "require_local_path",
    "resolve_key",
    "shipped",
    "suggest",
]
