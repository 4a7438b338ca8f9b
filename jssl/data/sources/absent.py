"""The training data of a run that is evaluated where this data is not."""

import glob
import os
from types import SimpleNamespace

import numpy as np

from jssl import data
from jssl.config import Config, UserError
from jssl.core import DatasetInfo
from jssl.data.files import Unreachable
from jssl.data.text import tokenizer as tokenizers


class Absent:
    """Stands for a source that cannot be opened, where only its shapes are needed.

    It has as many examples as the run had. `read` returns zeros of the shapes of a real example:
    enough to build the state of a run, whose shapes depend on the config alone.

    Attributes:
        reason: Why the source could not be opened, in one line.
    """

    classes = None
    fingerprint = ""

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
            if config.data.tokenizer:  # it can be read without the data
                self.tokenizer = tokenizers.load(config.data.tokenizer)
            self.vocab = self.tokenizer.vocab

    def __len__(self) -> int:
        return max(self.info.num_examples, 1)

    def describe(self, index: int) -> str:
        return f"{self.name} example {index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Zeros of the fields; a segment of ones, and the size of the whole canvas."""
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
    """The training data of a run; where it is gone, an `Absent` of its `info` in its place.

    Raises UserError if the data is there, and cannot be used.
    """
    try:
        return data.load_again(config.data, info)
    except Unreachable:
        raise
    except UserError as error:
        if _there(config.data):
            raise
        return data.DataConfig(Absent(config, info, str(error)), False, 0, 0.0)


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
