"""Labels of two splits mean the same: classes are compared by name, never by number."""

import logging

import numpy as np

from jssl.config import UserError
from jssl.data.splits import few, nfc

log = logging.getLogger("jssl")


class Relabeled:
    """A source whose labels are numbered like `classes`; see `relabel`."""

    def __init__(self, source, classes: list[str]):
        self.source = source
        self.classes = list(classes)
        self._table = _table(_names(source), self.classes)

    def __len__(self):
        return len(self.source)

    def __getattr__(self, name):
        if name == "source":  # not there yet, while it is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    def __reduce__(self):
        return Relabeled, (self.source, self.classes)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`, as the source gives them but for `label`."""
        batch = self.source.read(indices)
        n = len(batch["index"])
        given = batch["label"] if "label" in batch else np.where(batch["damaged"] < 0, 0, -1)
        label = np.full(n, -1, np.int32)
        known = given >= 0
        label[known] = self._table[np.asarray(given)[known]]
        return batch | {"label": label}


def relabel(source, classes: list[str], what: str):
    """The source, with its labels mapped by class name onto `classes`, those of the training set.

    Names are compared in Unicode's NFC. A name that `classes` lacks counts as unlabeled (-1), and
    is named in the log. A source that lacks some of `classes` keeps their numbers. `source` itself
    is returned where nothing changes: also where it has no labels at all.

    Args:
        source: Any source of `jssl.data`.
        classes: Names, by their number.
        what: The split that messages name: "config.eval.split=test".

    Raises:
        UserError: The two have no class in common.
    """
    names = _names(source)
    if names is None or (source.classes is not None and names == list(classes)):
        return source
    known = {nfc(name) for name in classes}
    strange = [name for name in names if nfc(name) not in known]
    if len(strange) == len(names):
        if source.classes is None:  # all images in one folder, which then means nothing
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
    return Relabeled(source, classes)


def _names(source) -> list[str] | None:
    if source.classes is not None:
        return list(source.classes)
    single = getattr(source, "single_class", None)
    return None if single is None else [single]


def _table(names, classes):
    number = {nfc(name): k for k, name in enumerate(classes)}
    return np.array([number.get(nfc(name), -1) for name in names], np.int32)
