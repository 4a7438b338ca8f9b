"""Which folder of a data set is which split, however it is spelled.

"train" is also named by `Train`, `TRAINING` and `train2017`, and "validation" by `val`: names are
compared without case, in Unicode's NFC, without a year or number behind them, and by the synonyms
of `SYNONYMS`. An exact name comes before all others.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from jssl.config import UserError

SYNONYMS = (
    ("train", "training", "trainset"),
    ("test", "testing", "testset"),
    ("validation", "val", "valid", "dev"),
)
_NUMBER = re.compile(r"[\W_]*\d+$")


def nfc(name: str) -> str:
    """The name in Unicode's composed form, which file systems do not agree on."""
    return unicodedata.normalize("NFC", name)


def split_kind(name: str) -> str:
    """The split that a folder's name means: "train", "test", "validation"; "" if it means none."""
    plain = nfc(name).lower()
    plain = _NUMBER.sub("", plain) or plain
    return next((group[0] for group in SYNONYMS if plain in group), "")


def find_split(wanted: str, names: Iterable[str], where: str) -> str | None:
    """The one of `names` that is the split `wanted`; None if there is none.

    Args:
        wanted: A split without its slice: "train".
        names: Of the folders (or files without their endings) of the data set.
        where: The folder, for the message.

    Raises:
        UserError: Several names mean this split, and none is exactly it.
    """
    names = sorted(names)
    kind = split_kind(wanted)
    rules = (
        lambda name: name == wanted,
        lambda name: nfc(name) == nfc(wanted),
        lambda name: nfc(name).casefold() == nfc(wanted).casefold(),
        lambda name: bool(kind) and split_kind(name) == kind,
    )
    for rule in rules:
        fitting = [name for name in names if rule(name)]
        if len(fitting) > 1:
            raise UserError(
                f"data.split={wanted} is ambiguous: {where} has {few(fitting)}; "
                f"use data.split={fitting[0]}"
            )
        if fitting:
            return fitting[0]
    return None


def split_folders(path: str | os.PathLike) -> dict[str, str]:
    """{name of a folder in `path`: the split that it means, "" for none}; {} for no folder."""
    try:
        with os.scandir(path) as entries:
            folders = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError:
        return {}
    return {name: split_kind(name) for name in sorted(folders)}


def few(names: Sequence[str], shown: int = 5) -> str:
    """The first of several names, for a message: "a, b, c, d, e, ..."."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
