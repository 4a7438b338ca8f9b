"""The read-only view of a config that methods get, and calls of functions with its sections."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from jssl.config import values
from jssl.config.tree import flatten
from jssl.errors import MissingKeyError, UserError, suggest


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
            raise MissingKeyError(f"{self._path}.{key}", suggest(key, keys))
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
        tree = self._tree.copy_and_resolve_references()
        flat = flatten(tree)
        with tree.unlocked():  # two trees of which one is locked are not equal
            tree.update_from_flattened_dict(
                {k: v for k, v in values.items() if f"config.{k}" in flat}
            )
        return Config(tree, seen=self._seen)

    def unread(self) -> list[str]:
        """Returns the dotted keys that nothing has read so far."""
        flat = flatten(self._tree, self._path)
        return [key for key in flat if key not in self._seen]


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
        keys = ", ".join(f"--config.{prefix}.{name}" for name in missing)
        lack = "are missing; add them" if missing[1:] else "is missing; add it"
        raise UserError(f"{keys} {lack} to the recipe")
    return function(**section, **arguments)
