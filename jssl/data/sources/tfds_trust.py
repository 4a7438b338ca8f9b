"""Opens a data set of TFDS without letting its files choose code.

features.json names the class of each feature, and TFDS imports the module of any name that it does
not know. A data set may come from anybody, so this module checks the names first, and accepts only
the classes of TFDS itself.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from jssl.config import ConfigError
from jssl.data.files import Damaged, foreign, read_json

INFO = "dataset_info.json"
FEATURES = "features.json"
_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.[A-Za-z0-9_.]+")
_KEYS = ("pythonClassName", "python_class_name", "type")  # "type" up to TFDS 4.3


def open_builder(folder: str | os.PathLike, name: str) -> Any:
    """Returns TFDS's builder of a prepared data set.

    Args:
      folder: the folder in which the data set was prepared.
      name: name of the data set, for messages.

    Raises:
      UserError: a class is not TFDS's own, or a file is missing or damaged.
    """
    try:
        with foreign(folder):
            features = read_json(os.path.join(folder, FEATURES), follow=True)
            for class_name in classes(features):
                if not _CLASS.fullmatch(class_name):
                    raise ConfigError(
                        "config.data.name",
                        name,
                        f"refused because its {FEATURES} names {class_name!r}, which is no "
                        "feature of TFDS, and would be run",
                        "prepare the set with features of TFDS",
                    )
            if not isinstance(read_json(os.path.join(folder, INFO), follow=True), dict):
                raise ValueError(f"{INFO} holds no object")
            import tensorflow_datasets as tfds  # takes a second

            builder: Any = tfds.builder_from_directory(os.fspath(folder))
            dict(builder.info.features.items())
            dict(builder.info.splits.items())
            return builder
    except FileNotFoundError as error:
        reason = f"{os.path.basename(error.filename or 'a file')} is missing"
    except Damaged as error:
        reason = error.reason
    raise ConfigError(
        "config.data.name",
        name,
        f"cannot be read from {os.fspath(folder)} ({reason})",
        "copy the set again, or prepare it again",
    )


def classes(tree: Any) -> Iterator[str]:
    """Yields every class name in a features.json, also in strings that are JSON themselves."""
    if isinstance(tree, str) and tree.lstrip()[:1] in ("{", "["):
        tree = json.loads(tree)
    if isinstance(tree, list):
        for inner in tree:
            yield from classes(inner)
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in _KEYS and isinstance(value, str):
                yield value
            else:
                yield from classes(value)
