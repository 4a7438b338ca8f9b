"""Gives the labels of two splits the same meaning: classes are compared by name, not by number."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jssl.config import UserError
from jssl.data.source import Batch, Source
from jssl.data.splits import few, nfc

log = logging.getLogger("jssl")


class Relabeled:
    """A source whose labels are the class numbers of another set; see `relabel`.

    Any attribute that is not defined here is the attribute of `source`.
    """

    def __init__(self, source: Any, classes: Sequence[str]):
        self.source = source
        self.classes = list(classes)
        self._table = _table(_names(source) or [], self.classes)

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # it does not exist yet during unpickling
            raise AttributeError(name)
        return getattr(self.source, name)

    def __reduce__(self) -> tuple[type, tuple[Any, list[str]]]:
        return Relabeled, (self.source, self.classes)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` as the source does, with other numbers in `label`."""
        batch = self.source.read(indices)
        n = len(batch["index"])
        own = batch["label"] if "label" in batch else np.where(batch["damaged"] < 0, 0, -1)
        label = np.full(n, -1, np.int32)
        labeled = own >= 0
        label[labeled] = self._table[np.asarray(own)[labeled]]
        return batch | {"label": label}


def relabel(source: Source, classes: Sequence[str], what: str) -> Source:
    """Maps the labels of a source by class name to the class numbers of the training set.

    Names are compared in Unicode's NFC. A name that is not in `classes` counts as unlabeled (-1)
    and is logged. If a source does not have all of `classes`, their numbers are kept.

    Args:
      source: any source of `jssl.data`.
      classes: the class names of the training set, by number.
      what: the split that messages name: "config.eval.split=test".

    Returns:
      The mapped source; `source` itself if nothing changes or it has no labels at all.

    Raises:
      UserError: the two sets have no class in common.
    """
    names = _names(source)
    if names is None or (source.classes is not None and names == list(classes)):
        return source
    trained = {nfc(name) for name in classes}
    strange = [name for name in names if nfc(name) not in trained]
    if len(strange) == len(names):
        if source.classes is None:  # all images are in one folder, whose name is then not a class
            return source
        raise UserError(
            f"{what} of {source.name} has the classes {few(names)}, and training has "
            f"{few(classes)}: none is in both; name a split of the same classes"
        )
    if strange:
        log.warning(
            "%s has %d of %d classes that training lacks (%s): their examples count as unlabeled",
            what,
            len(strange),
            len(names),
            few(strange),
        )
    relabeled: Any = Relabeled(source, classes)  # the rest of the protocol by `__getattr__`
    return relabeled


def _names(source: Source) -> list[str] | None:
    """Returns the class names of a source, or the single folder of its images, or None."""
    if source.classes is not None:
        return list(source.classes)
    single = getattr(source, "single_class", None)
    return None if single is None else [single]


def _table(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns int32 [len(names)]: the number in `classes` of each name, or -1."""
    number = {nfc(name): k for k, name in enumerate(classes)}
    return np.array([number.get(nfc(name), -1) for name in names], np.int32)
