"""Replaces the training data of a run that is evaluated on a machine without this data."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from jssl import data
from jssl.config import Config, ConfigError, UserError
from jssl.core import DatasetInfo, Modality
from jssl.data.files import Unreachable
from jssl.data.source import Batch, Source
from jssl.data.text import tokenizer as tokenizers

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct


class Absent:
    """Replaces a source that cannot be opened, where only its shapes are needed.

    It has as many examples as the run had. `read` returns zeros with the shapes of a real example.
    They suffice to build the state of a run, whose shapes depend only on the config.

    Attributes:
      reason: why the source could not be opened, in one line.
    """

    name: str
    modality: Modality
    fields: Mapping[str, ShapeDtypeStruct]
    classes: None = None
    fingerprint: str = ""
    tokenizer: Any
    vocab: dict[str, int]
    length: int
    pack: bool

    def __init__(self, config: Config, info: DatasetInfo, reason: str):
        self.reason = reason
        self.info = info
        self.name = config.data.path or config.data.name or config.data.source
        self.modality = info.modality
        self.fields = info.fields
        self.max_value = info.max_value
        if info.vocab is not None:
            self.length = config.data.seq_len
            self.pack = config.data.pack_documents
            vocab = info.vocab._asdict()
            self.tokenizer = SimpleNamespace(fingerprint=vocab.pop("fingerprint"), vocab=vocab)
            if config.data.tokenizer:  # this file can be read without the data
                self.tokenizer = tokenizers.load(config.data.tokenizer)
            self.vocab = self.tokenizer.vocab

    def __len__(self) -> int:
        return max(self.info.num_examples, 1)

    def describe(self, index: int) -> str:
        """Returns the name of an example, for messages."""
        return f"{self.name} example {index}"

    def read(self, indices: np.ndarray) -> Batch:
        """Returns zeros, but a segment of ones, and the size of the whole canvas."""
        n = len(indices)
        batch = {
            name: np.zeros((n, *field.shape), field.dtype)
            for name, field in self.fields.items()
            if name != "label"
        }
        if self.modality == "image":
            batch["size"][:] = self.fields["image"].shape[:2]
        else:
            batch["segment"][:] = 1
        batch["index"][:] = indices
        return batch | {"damaged": np.full(n, -1, np.int32)}


def open_or_absent(config: Config, info: DatasetInfo) -> data.DataConfig:
    """Opens the training data of a run, or an `Absent` of its `info` if the data does not exist.

    Raises:
      UserError: the data exists, and cannot be used.
    """
    try:
        return data.load_again(config.data, info)
    except Unreachable:
        raise
    except UserError as error:
        if _there(config.data):
            raise
        return data.DataConfig(Absent(config, info, str(error)), False, 0, 0.0)


def need(source: Source, protocol: str, config: Config) -> None:
    """Raises UserError if the training data is absent, because `protocol` needs it."""
    if isinstance(source, Absent):
        key = "dir" if config.data.source == "tfds" else "path"
        raise ConfigError(
            "protocol",
            protocol,
            f"needs the data that the run was trained on: {source.reason}",
            f"name the folder in which it lies now with --config.data.{key}=FOLDER",
        )


def _there(section: Any) -> bool:
    """Returns whether there is any file where the data should be."""
    name = section.dir if section.source == "tfds" else section.path
    if not name:
        return True
    paths = glob.glob(os.path.expanduser(name), recursive=True) or [os.path.expanduser(name)]
    try:
        return any(os.path.isfile(path) or os.listdir(path) for path in paths)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
