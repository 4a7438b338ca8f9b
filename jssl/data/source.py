"""The protocol of a source of examples, for every modality.

Sources are read in worker processes, which do not import JAX. Therefore this module imports it
only inside the functions that need it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import DatasetInfo, Modality

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to the examples of one split.

    A source pickles, so that worker processes can read it.

    Attributes:
      name: of the data set, for messages.
      modality: decides which other attributes there are.
      fields: the arrays of one example, as `read` gives them without the leading axis.
      classes: names by number, or None if there are no labels.
      fingerprint: of what it holds (`jssl.data.fingerprint`).
    """

    name: str
    modality: Modality
    fields: dict[str, ShapeDtypeStruct]
    classes: Sequence[str] | None
    fingerprint: str

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [n]: `fields` with a leading axis n, and ``damaged`` int32 [n],
        -1, or the unreadable example that another one stands in for (then its label is -1)."""
        ...

    def describe(self, index: int) -> str:
        """The file or record of an example, for messages."""
        ...


def image_fields(canvas: tuple[int, ...], dtype: Any, labeled: bool) -> dict[str, ShapeDtypeStruct]:
    """The fields of an image on a canvas (height, width, channels)."""
    return _fields({"image": (canvas, dtype), "size": ((2,), np.int32)}, labeled)


def text_fields(length: int, word_ids: bool, labeled: bool) -> dict[str, ShapeDtypeStruct]:
    """The fields of a row of `length` tokens."""
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
    """Bytes of one example."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in source.fields.values())


def dataset_info(source: Source) -> DatasetInfo:
    """What a method and the run's folder need to know of a training set."""
    from jssl.core import DatasetInfo, Vocab

    vocab = getattr(source, "vocab", None)
    if vocab is not None:
        vocab = Vocab(**vocab, fingerprint=source.tokenizer.fingerprint)
    return DatasetInfo(
        num_examples=len(source),
        modality=source.modality,
        fields=source.fields,
        vocab=vocab,
        max_value=float(getattr(source, "max_value", 0.0)),
    )


def info_to_json(info: DatasetInfo) -> dict[str, Any]:
    """A `DatasetInfo` as JSON values; `info_from_json` is the inverse."""
    fields = {name: [list(x.shape), str(x.dtype)] for name, x in info.fields.items()}
    vocab = None if info.vocab is None else info.vocab._asdict()
    return info._asdict() | {"fields": fields, "vocab": vocab}


def info_from_json(values: dict[str, Any]) -> DatasetInfo:
    """Raises KeyError, TypeError or ValueError for what `info_to_json` does not write."""
    from jax import ShapeDtypeStruct

    from jssl.core import DatasetInfo, Vocab

    fields = {
        name: ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (shape, dtype) in values["fields"].items()
    }
    vocab = None if values["vocab"] is None else Vocab(**values["vocab"])
    return DatasetInfo(**(values | {"fields": fields, "vocab": vocab}))
