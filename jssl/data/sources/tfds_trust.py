"""Opens a data set of TFDS without letting its files choose code.

features.json names the class of each feature, and TFDS imports the module of any name that it does
not know. A data set may come from anybody, so the names are read first: only the classes of TFDS
itself are let through.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from jssl.config import UserError
from jssl.data.files import Damaged, foreign, read_json

INFO = "dataset_info.json"
FEATURES = "features.json"
_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.[A-Za-z0-9_.]+")
_KEYS = ("pythonClassName", "python_class_name", "type")  # the last one up to TFDS 4.3


def open_builder(folder: str | os.PathLike, name: str) -> Any:
    """TFDS's builder over a folder in which a data set was prepared.

    name  of the data set, for messages

    Raises UserError for a class that is not TFDS's own, and for damaged files.
    """
    try:
        with foreign(folder):
            features = read_json(os.path.join(folder, FEATURES), follow=True)
            for chosen in classes(features):
                if not _CLASS.fullmatch(chosen):
                    raise UserError(
                        f"data.name={name} is refused because its {FEATURES} names {chosen!r}, "
                        "which is no feature of TFDS, and would be run; prepare the set with "
                        "features of TFDS"
                    )
            if not isinstance(read_json(os.path.join(folder, INFO), follow=True), dict):
                raise ValueError(f"{INFO} holds no object")
            import tensorflow_datasets as tfds  # takes a second

            builder = tfds.builder_from_directory(os.fspath(folder))
            dict(builder.info.features.items())
            dict(builder.info.splits.items())
            return builder
    except FileNotFoundError as error:
        reason = f"{os.path.basename(error.filename or 'a file')} is missing"
    except Damaged as error:
        reason = error.reason
    raise UserError(
        f"data.name={name} cannot be read from {os.fspath(folder)} ({reason}); "
        "copy the set again, or prepare it again"
    )


def classes(tree: Any) -> Iterator[str]:
    """Every class that a features.json names, also in texts that are JSON themselves."""
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
