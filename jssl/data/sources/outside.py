"""Sources outside jssl, by a dotted name: ``config.data.source="my_fork.pages"``.

The module has a function ``build(split, ...)``, which is called with those keys of ``config.data``
that it takes, and returns an object with

    modality                      "image" or "text", and so on (`jssl.core.Modality`)
    __len__()                     the number of examples
    read(indices)                 {"image": uint8 [n, H, W, C], ...}, the examples at these indices

That is enough for images of one size. All other attributes of a `Source` are optional here: `name`,
`classes` (with a column ``label`` in `read`), `fingerprint`, `describe`, and the columns ``size``,
``index`` and ``damaged``. A source of text has those of `TextSource` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from jssl.config import UserError, plugins
from jssl.data import files
from jssl.data.source import Batch, Source

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import Modality

NEEDED = {  # the columns of `read` for each modality
    "image": ("image",),
    "text": ("tokens", "segment"),
}
TEXT = ("tokenizer", "vocab", "length", "pack")  # attributes that a source of text has as well


class OutsideSource:
    """A source outside jssl, with defaults for what it does not have.

    Attributes:
      inner: the object that ``build`` returned. Its attributes are those of this object too.
    """

    modality: Modality

    def __init__(self, key: str, inner: Any, split: str):
        """Checks one example of `inner`; `key` is its key and name, for messages."""
        self.inner = inner
        self.modality = inner.modality
        self.name = str(getattr(inner, "name", f"{type(inner).__name__}, {split}"))
        self.classes: Sequence[str] | None = getattr(inner, "classes", None)
        self.fingerprint = str(getattr(inner, "fingerprint", ""))
        self._columns = self._check(key)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` with all columns (`jssl.data`)."""
        indices = np.asarray(indices)
        batch = {name: np.asarray(column) for name, column in self.inner.read(indices).items()}
        batch.setdefault("index", indices.astype(np.int32))
        batch.setdefault("damaged", np.full(len(indices), -1, np.int32))
        if "image" in batch and "size" not in batch:
            batch["size"] = np.tile(
                np.array(batch["image"].shape[1:3], np.int32), (len(indices), 1)
            )
        if self.classes is None:
            batch.pop("label", None)
        return batch

    def describe(self, index: int) -> str:
        """Returns what `inner` says of an example, or its number."""
        describe = getattr(self.inner, "describe", None)
        return str(describe(index)) if describe else f"{self.name}, example {index}"

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        from jax import ShapeDtypeStruct  # not in worker processes

        return {name: ShapeDtypeStruct(*column) for name, column in self._columns.items()}

    def _check(self, key: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Reads one example, and returns {column: (shape, dtype)} of it.

        Raises:
          UserError: a column is missing, or has another shape than one row for each index.
        """
        batch = self.read(np.array([0]))
        batch.pop("damaged")
        needed = NEEDED.get(self.modality, ())
        if self.classes is not None:
            needed = (*needed, "label")
        for name in needed:
            if name not in batch:
                raise UserError(f"{key}: read() returns no {name!r}; it has {', '.join(batch)}")
        for name, column in batch.items():
            if column.ndim == 0 or len(column) != 1:
                raise UserError(
                    f"{key}: read() of one index returns {name!r} of shape {column.shape}; its "
                    "first axis must have one row for each index"
                )
        image = batch.get("image")
        if image is not None and (image.ndim != 4 or image.dtype not in (np.uint8, np.uint16)):
            raise UserError(
                f"{key}: read() returns 'image' of {image.dtype} {image.shape}; it must be uint8 "
                "or uint16 [n, H, W, C]"
            )
        return {name: (column.shape[1:], column.dtype) for name, column in batch.items()}


def open_outside(name: str, section: Mapping[str, Any]) -> Source:
    """Opens the source that a dotted name means.

    Args:
      name: the dotted name.
      section: the keys of ``config.data`` that it may take.

    Raises:
      UserError: there is no such module, it fails, or what it returns is no source.
    """
    from jssl.core import Modality

    key = f"--config.data.source={name!r}"
    build = plugins.resolve("config.data.source", name)
    given = plugins.taken(build, section)
    if "split" not in given:
        raise UserError(
            f"{key}: build() has no argument split; add it, because evaluations open another split"
        )
    inner = build(**given)
    lacks = [part for part in ("modality", "__len__", "read") if not hasattr(inner, part)]
    modality = getattr(inner, "modality", "")
    lacks += [part for part in TEXT if modality == "text" and not hasattr(inner, part)]
    if lacks:
        raise UserError(f"{key}: build() returns {type(inner).__name__} without {lacks[0]}; add it")
    if modality not in get_args(Modality):
        raise UserError(
            f"{key}: its modality is {modality!r}; use one of {', '.join(get_args(Modality))}"
        )
    if not len(inner):
        raise UserError(f"{key}: the split {given['split']!r} has no examples; name another")
    try:
        return OutsideSource(key, inner, str(given["split"]))
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever code outside jssl raises
        raise UserError(f"{key}: read([0]) fails with {files.one_line(error)}; mend it") from error
