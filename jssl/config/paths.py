"""Paths in a config mean the same wherever the next command is started."""

import os
from typing import Any

import ml_collections

from jssl.errors import ConfigError

PATHS = (
    ("data", "path"),
    ("data", "dir"),
    ("data", "tokenizer"),
    ("init_from", "path"),
    ("teacher", "path"),
)


def absolute(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy of a config in which the `PATHS` are absolute.

    A run stores this copy, so that it finds its data again from any folder. "~" becomes the home
    folder. Values that are no paths stay as they are: "", "bytes" and addresses such as
    "gs://bucket".
    """
    config = config.copy_and_resolve_references().unlock()
    for name, key in PATHS:
        section: Any = config.get(name, {})
        if isinstance(section.get(key), str):
            section[key] = _absolute(section[key], key)
    return config.lock()


def require_local_path(key: str, folder: str) -> str:
    """Returns `folder`; raises `UserError` if it is an address and no path."""
    if "://" in folder:
        raise ConfigError(
            key, folder, "no folder", "mount it (Cloud Storage FUSE), and name the mount"
        )
    return folder


def _absolute(name: str, key: str) -> str:
    if not name or "://" in name or (key == "tokenizer" and name == "bytes"):
        return name
    path = os.path.expanduser(name)
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    # Behind a link, "a/.." is not the folder that holds "a".
    return path if ".." in path.split(os.sep) else os.path.normpath(path)
