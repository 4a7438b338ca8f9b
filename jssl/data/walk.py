"""The files of a data set below a folder: one walker for every kind of data.

- Links to folders are followed; every folder is entered once, under its own path where it has one
  below the root.
- Only regular files are found. A link that leads nowhere is found too, because it stands for an
  example that should be there: it counts as unreadable when it is read.
- The case of endings does not matter. Names that begin with a dot are passed over, and so is what
  file servers and operating systems leave in folders (`LITTER`).
- A folder that holds a run of jssl is passed over with all that is below it: a run never reads its
  own output.
- A folder that may not be listed is passed over and named. A read error that may pass (a mount that
  hiccups) ends the walk: a data set must not lose a part of itself to it.
"""

import collections
import errno
import logging
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from jssl.config import UserError
from jssl.data import files

log = logging.getLogger("jssl")

# Folders that nobody made on purpose. Synology's "@eaDir" holds a thumbnail of every image.
LITTER = ("lost+found", "system volume information", "$recycle.bin", "__macosx", "@eadir")
# What a run writes into its folder, where that is also the folder of the data.
OUTPUT = ("checkpoints", "pictures", "tensorboard", "profile", "wandb", "mlruns", "metrics.jsonl")
_DENIED = (errno.EACCES, errno.EPERM)
_ENDING = 12  # characters; what is longer is no ending
_ENDINGS = 1000  # different ones that are counted apart


class Found(NamedTuple):
    """What `walk` found. All names are relative to `root`.

    Attributes:
        root: The folder.
        files: The files, sorted.
        passed: How many files of which ending were passed over; "" is no ending.
        unreadable: Folders that could not be listed, each with the reason.
        special: Pipes, sockets and devices that are named like a file of the data.
        runs: Folders that hold a run of jssl.
        again: Links to folders that were found under another name.
    """

    root: str
    files: list[str]
    passed: collections.Counter
    unreadable: dict[str, str]
    special: list[str]
    runs: list[str]
    again: list[str]

    def describe(self, what: str) -> str:
        """One line: how many files (`what`: "images") were found, and what was passed over."""
        several = [(ending or "without an ending", n) for ending, n in self.passed.most_common(6)]
        parts = [f"{n:,} {ending}" for ending, n in several]
        rest = self.passed.total() - sum(n for _, n in several)
        if rest:
            parts.append(f"{rest:,} others")
        kinds = (
            ("unreadable folder", "unreadable folders", list(self.unreadable)),
            ("pipe or device", "pipes or devices", self.special),
            ("folder that holds a run", "folders that hold a run", self.runs),
            ("second name of a folder", "second names of folders", self.again),
        )
        parts += [_some(*kind) for kind in kinds if kind[2]]
        line = f"read the names of {len(self.files):,} {what} in {self.root}"
        return f"{line}; passed over {', '.join(parts)}" if parts else line

    def announce(self, what: str) -> None:
        """Logs `describe`: a warning where folders are missing, else information."""
        level = logging.WARNING if self.unreadable else logging.INFO
        log.log(level, "%s", self.describe(what))


def walk(root: str | os.PathLike, extensions: Sequence[str]) -> Found:
    """Finds all regular files below `root` that end in one of `extensions`.

    Args:
        root: A folder; it may be a link, and it may hold a run of jssl (then all but `OUTPUT` is
            read).
        extensions: Endings in lower case, with their dots: (".txt", ".txt.gz").

    Returns:
        The files and what was passed over; see `Found`.

    Raises:
        UserError: `root` is no folder, or may not be listed.
        files.Unreachable: A folder could not be read now, and may be readable later.
    """
    root = os.fspath(root)
    found = Found(root, [], collections.Counter(), {}, [], [], [])
    seen: set[tuple[int, int]] = set()
    ahead = [""]
    # Links come last, so that a folder is known by its own name and not by a link's.
    linked: collections.deque[str] = collections.deque()
    while ahead or linked:
        folder = ahead.pop() if ahead else linked.popleft()
        inner, links = _enter(found, folder, tuple(extensions), seen)
        ahead += sorted(inner, reverse=True)
        linked += sorted(links)
    found.files.sort()
    return found


def _enter(found, folder, extensions, seen) -> tuple[list[str], list[str]]:
    """Adds the files of one folder to `found`; returns its folders and its links to folders."""
    path = os.path.join(found.root, folder) if folder else found.root
    inner: list[str] = []
    links: list[str] = []
    try:
        where = os.stat(path)
        if (where.st_dev, where.st_ino) in seen:
            found.again.append(folder)
            return [], []
        seen.add((where.st_dev, where.st_ino))
        with os.scandir(path) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".")]
    except OSError as error:
        _unlisted(found, folder, path, error)
        return [], []
    if _holds_run(path, {entry.name for entry in entries}):
        if folder:
            found.runs.append(folder)
            return [], []
        entries = [entry for entry in entries if entry.name not in OUTPUT]
    for entry in entries:
        name = os.path.join(folder, entry.name) if folder else entry.name
        kind = _kind(entry)
        if kind == "folder":
            if entry.name.lower() not in LITTER:
                (links if entry.is_symlink() else inner).append(name)
        elif not entry.name.lower().endswith(extensions):
            _count(found.passed, entry.name)
        elif kind == "special":
            found.special.append(name)
        else:
            found.files.append(name)
    return inner, links


def _unlisted(found, folder, path, error):
    reason = files.one_line(error)
    if not folder:
        raise UserError(
            f"data.path={path} cannot be read ({reason}); name a folder that you may read"
        ) from None
    if error.errno in files.PASSING and error.errno not in _DENIED:
        raise files.Unreachable(path, reason) from error
    found.unreadable[folder] = reason


def _kind(entry: os.DirEntry) -> str:
    """ "folder", "file" (also a link that leads nowhere) or "special"."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        mode = entry.stat().st_mode
    except OSError:
        return "file"
    return "file" if stat.S_ISREG(mode) else "special"


def _holds_run(path: str, names: set[str]) -> bool:
    """Whether a folder with these names in it is the workdir of a run."""
    if "config.json" not in names or not names & {"checkpoints", "metrics.jsonl", "result.json"}:
        return False
    try:
        config = files.read_json(os.path.join(path, "config.json"), follow=True)
    except (files.Damaged, UserError, OSError):
        return True  # a run whose config is damaged is one
    return isinstance(config, dict) and {"config", "versions"} <= config.keys()


def _count(passed, name):
    ending = os.path.splitext(name)[1].lower()
    if len(ending) > _ENDING or (ending not in passed and len(passed) >= _ENDINGS):
        ending = ".*"
    passed[ending] += 1


def _some(singular: str, plural: str, names: list[str], shown: int = 3) -> str:
    """ "2 unreadable folders (a, b)"."""
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names):,} {singular if len(names) == 1 else plural} ({listed})"
