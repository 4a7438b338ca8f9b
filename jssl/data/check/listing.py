"""The files of a data set by ending, and the files and folders that are skipped."""

import collections
import os
from collections.abc import Sequence
from typing import Any

from jssl.data.walk import walk


def describe(root: str, extensions: Sequence[str]) -> dict[str, Any]:
    """Lists a folder as a run does.

    Args:
      root: the folder of a split.
      extensions: endings of the files that are read.

    Returns:
      {"found": number of files, "endings": {ending: count}, "beside_folders": number of files that
      lie directly in `root` while others lie in its folders, "skipped": {ending: count},
      "unreadable_folders": {name: reason}, "special": names of pipes and devices, "runs": folders
      that hold a run of jssl, "second_names": links to folders that have another name here}.
    """
    listing = walk(root, extensions)
    endings = collections.Counter(_ending(name) for name in listing.files)
    top = sum(os.sep not in name for name in listing.files)
    return {
        "found": len(listing.files),
        "endings": dict(endings.most_common()),
        "beside_folders": top if top < len(listing.files) else 0,
        "skipped": {name or "no ending": n for name, n in listing.passed.most_common()},
        "unreadable_folders": listing.unreadable,
        "special": listing.special,
        "runs": listing.runs,
        "second_names": listing.again,
    }


def _ending(name: str) -> str:
    """Returns the ending in lower case: ".png", or ".txt.gz"."""
    stem, last = os.path.splitext(os.path.basename(name).lower())
    return os.path.splitext(stem)[1] + last if last == ".gz" else last
