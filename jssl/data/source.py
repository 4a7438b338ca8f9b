"""The protocol of a source of examples, for every modality.

Worker processes read sources, and they do not import JAX. Therefore this module imports JAX only
inside the functions that need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import DatasetInfo, Modality

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to the examples of one split.

    A source can be pickled, so that worker processes can read it.

    Attributes:
      name: name of the data set, for messages.
      modality: kind of the examples. It decides which other attributes exist.
      fields: shape and dtype of each array of one example. `read` returns these arrays with a
        leading axis.
      classes: class names by class number, or None if there are no labels.
      fingerprint: hash of the content (`jssl.data.fingerprint`).
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def fields(self) -> Mapping[str, ShapeDtypeStruct]: ...

    @property
    def classes(self) -> Sequence[str] | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` int [n].

        The batch holds the arrays of `fields` with a leading axis n, and ``damaged`` int32 [n]. An
        entry of ``damaged`` is -1, or the index of an unreadable example. Another example replaces
        an unreadable one, and its label is then -1.
        """
        ...

    def describe(self, index: int) -> str:
        """Returns the file or the record of an example, for messages."""
        ...


class TextSource(Source, Protocol):
    """A source of rows of tokens.

    Attributes:
      tokenizer: a `jssl.data.text.tokenizer.Tokenizer`; if the data is absent, an object that has
        only its `vocab` and its `fingerprint`.
      vocab: vocabulary size and the ids of special tokens (`jssl.data.text.tokenizer`).
      length: tokens of a row.
      pack: whether a row joins several documents.
    """

    tokenizer: Any
    vocab: dict[str, int]
    length: int
    pack: bool


def image_fields(
    canvas: tuple[int, ...], dtype: np.typing.DTypeLike, labeled: bool
) -> dict[str, ShapeDtypeStruct]:
    """Returns the fields of an image on a canvas (height, width, channels)."""
    return _fields({"image": (canvas, dtype), "size": ((2,), np.int32)}, labeled)


def text_fields(length: int, word_ids: bool, labeled: bool) -> dict[str, ShapeDtypeStruct]:
    """Returns the fields of a row of `length` tokens."""
    names = ("tokens", "segment", "word") if word_ids else ("tokens", "segment")
    return _fields(dict.fromkeys(names, ((length,), np.int32)), labeled)


def _fields(arrays: dict[str, tuple], labeled: bool) -> dict[str, ShapeDtypeStruct]:
    from jax import ShapeDtypeStruct

    arrays = arrays | {"index": ((), np.int32)}
    if labeled:
        arrays = arrays | {"label": ((), np.int32)}
    return {
        name: ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (shape, dtype) in arrays.items()
    }


def example_bytes(source: Source) -> int:
    """Returns the bytes of one example."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in source.fields.values())


def dataset_info(source: Source) -> DatasetInfo:
    """Returns the facts about a training set that a method and the run folder need."""
    from jssl.core import DatasetInfo, Vocab

    vocab = getattr(source, "vocab", None)
    if vocab is not None:
        fingerprint = cast(TextSource, source).tokenizer.fingerprint
        vocab = Vocab(**vocab, fingerprint=fingerprint)
    return DatasetInfo(
        num_examples=len(source),
        modality=source.modality,
        fields=source.fields,
        vocab=vocab,
        max_value=float(getattr(source, "max_value", 0.0)),
    )


def info_to_json(info: DatasetInfo) -> dict[str, Any]:
    """Returns a `DatasetInfo` as JSON values; `info_from_json` is the inverse."""
    fields = {name: [list(x.shape), str(x.dtype)] for name, x in info.fields.items()}
    vocab = None if info.vocab is None else info.vocab._asdict()
    return info._asdict() | {"fields": fields, "vocab": vocab}


def info_from_json(values: dict[str, Any]) -> DatasetInfo:
    """Returns the `DatasetInfo` that `info_to_json` wrote.

    Raises:
      KeyError, TypeError, ValueError: `values` has another structure.
    """
    from jax import ShapeDtypeStruct

    from jssl.core import DatasetInfo, Vocab

    fields = {
        name: ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (shape, dtype) in values["fields"].items()
    }
    vocab = None if values["vocab"] is None else Vocab(**values["vocab"])
    return DatasetInfo(**(values | {"fields": fields, "vocab": vocab}))
