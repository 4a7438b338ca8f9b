"""Paths in a config mean the same wherever the next command is started."""

import os

import ml_collections

PATHS = ("path", "dir", "tokenizer")  # of the section data


def absolute(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a config in which the paths of its section ``data`` are absolute.

    A run stores this one, so that its data is found again from any folder. "~" is the home folder;
    what is no path stays as it is: "", "bytes" and addresses such as "gs://bucket".
    """
    config = config.copy_and_resolve_references().unlock()
    section = config.get("data", {})
    for key in PATHS:
        if isinstance(section.get(key), str):
            section[key] = _absolute(section[key], key)
    return config.lock()


def _absolute(name: str, key: str) -> str:
    if not name or "://" in name or (key == "tokenizer" and name == "bytes"):
        return name
    path = os.path.expanduser(name)
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    # Behind a link, "a/.." is another folder than none.
    return path if ".." in path.split(os.sep) else os.path.normpath(path)
