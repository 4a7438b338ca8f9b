"""Maps the folders of a data set to splits, for all usual spellings.

"train" is also named `Train`, `TRAINING` and `train2017`, and "validation" is also named `val`.
Names are compared without case, in Unicode's NFC, without a year or number at the end, and with the
synonyms of `SYNONYMS`. An exact name has priority.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from jssl.config import ConfigError

SYNONYMS = (
    ("train", "training", "trainset"),
    ("test", "testing", "testset"),
    ("validation", "val", "valid", "dev"),
)
_NUMBER = re.compile(r"[\W_]*\d+$")


def nfc(name: str) -> str:
    """Returns the name in Unicode's composed form, because file systems use different forms."""
    return unicodedata.normalize("NFC", name)


def split_kind(name: str) -> str:
    """Returns the split that a folder name means: "train", "test", "validation" or "" (none)."""
    plain = nfc(name).lower()
    plain = _NUMBER.sub("", plain) or plain
    return next((group[0] for group in SYNONYMS if plain in group), "")


def find_split(wanted: str, names: Iterable[str], where: str) -> str | None:
    """Returns the name in `names` that means the split `wanted`; None if there is none.

    Args:
      wanted: a split without its slice: "train".
      names: names of the folders (or of the files, without their endings) of the data set.
      where: the folder, for the message.

    Raises:
      UserError: several names mean this split, and none equals it.
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
        matches = [name for name in names if rule(name)]
        if len(matches) > 1:
            raise ConfigError(
                "config.data.split",
                wanted,
                f"ambiguous: {where} has {few(matches)}",
                f"use --config.data.split={matches[0]}",
            )
        if matches:
            return matches[0]
    return None


def split_folders(path: str | os.PathLike) -> dict[str, str]:
    """Returns {name of a folder in `path`: its split, or ""}; {} if `path` is not a folder."""
    try:
        with os.scandir(path) as entries:
            folders = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except OSError:
        return {}
    return {name: split_kind(name) for name in sorted(folders)}


def few(names: Sequence[str], shown: int = 5) -> str:
    """Returns the first of several names, for a message: "a, b, c, d, e, ..."."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
