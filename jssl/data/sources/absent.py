"""The training data of a run that is evaluated where this data is not."""

import glob
import os
from types import SimpleNamespace

import numpy as np

from jssl import data
from jssl.config import Config, UserError, call_with_section
from jssl.data.files import Unreachable
from jssl.data.text import tokenizer as tokenizers


class Absent:
    """Stands for a source that cannot be opened, where only its shapes are needed.

    It has as many examples as the run had, and what `read` gives are zeros of the shapes of a real
    example: enough to build the state of a run, whose shapes depend on the config alone.

    Attributes:
        reason: Why the source could not be opened, in one line.
    """

    def __init__(self, config: Config, reason: str):
        self.reason, self.classes = reason, None
        self.name = config.data.path or config.data.name or config.data.source
        self._count = max(int(config.examples), 1)
        length = config.data.length
        if not length:
            side = config.data.canvas
            self.canvas = (side, side, config.data.channels)
            return
        self.length, self.pack = length, config.data.pack
        self.canvas = (length, 2 + config.data.words, 4)
        self._words = config.data.words
        stored = {key: config.vocab[key] for key in config.vocab.keys()}
        self.tokenizer = SimpleNamespace(fingerprint=stored.pop("fingerprint"), vocab=stored)
        if config.data.tokenizer:  # it can be read without the data
            self.tokenizer = tokenizers.load(config.data.tokenizer)
        self.vocab = self.tokenizer.vocab

    def __len__(self):
        return self._count

    def describe(self, index: int) -> str:
        return f"{self.name} example {index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Zeros, of the keys, shapes and types that `jssl.data` lays down."""
        n = len(indices)
        batch = {
            "index": np.asarray(indices, np.int32),
            "damaged": np.full(n, -1, np.int32),
        }
        if not hasattr(self, "vocab"):
            image = {"image": np.zeros((n, *self.canvas), np.uint8)}
            size = {"size": np.tile(np.array(self.canvas[:2], np.int32), (n, 1))}
            return image | size | batch
        row = np.zeros((n, self.length), np.int32)
        words = {"word": row} if self._words else {}
        return {"tokens": row, "segment": np.ones_like(row)} | words | batch


def open_or_absent(config: Config) -> data.DataConfig:
    """The training data of a run; where it is gone, an `Absent` in its place.

    Raises UserError if the data is there, and cannot be used.
    """
    try:
        return call_with_section(data.load, config.data, "data")
    except Unreachable:
        raise
    except UserError as error:
        if _there(config.data):
            raise
        return data.DataConfig(Absent(config, str(error)), False, 0, 0.0)


def need(source, protocol: str, config: Config) -> None:
    """`UserError` if the training data is absent, which `protocol` cannot do without."""
    if isinstance(source, Absent):
        key = "dir" if config.data.source == "tfds" else "path"
        raise UserError(
            f"--protocol={protocol} needs the data that the run was trained on: {source.reason}; "
            f"or name the folder in which it lies now with --config.data.{key}=FOLDER"
        )


def _there(section) -> bool:
    """Whether anything lies where the data should."""
    name = section.dir if section.source == "tfds" else section.path
    if not name:
        return True
    found = glob.glob(os.path.expanduser(name), recursive=True) or [os.path.expanduser(name)]
    try:
        return any(os.path.isfile(path) or os.listdir(path) for path in found)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
