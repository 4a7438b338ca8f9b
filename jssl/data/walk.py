"""Finds the files of a data set below a folder: one walker for every kind of data.

- Links to folders are followed. Every folder is entered once, under its own path if that is below
  the root.
- Only regular files are listed. A broken link is listed too, because it stands for an example that
  should exist: it counts as unreadable when it is read.
- Upper and lower case in endings are equal. Names that begin with a dot are skipped, and so are the
  files that file servers and operating systems leave in folders (`LITTER`).
- A folder that holds a run of jssl is skipped with everything below it: a run never reads its own
  output.
- A folder that the user may not list is skipped and named. A temporary read error (such as a mount
  that is briefly not available) ends the walk, because a data set must not lose files to it.
"""

import collections
import errno
import logging
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from jssl.config import ConfigError, UserError
from jssl.data import files

log = logging.getLogger("jssl")

# Folders that systems create by themselves. Synology's "@eaDir" holds a thumbnail of every image.
LITTER = ("lost+found", "system volume information", "$recycle.bin", "__macosx", "@eadir")
# Files and folders of a run. They are skipped in a root that is also a run folder.
OUTPUT = ("checkpoints", "pictures", "tensorboard", "profile", "wandb", "mlruns", "metrics.jsonl")
_DENIED = (errno.EACCES, errno.EPERM)
_ENDING = 12  # characters; a longer suffix is not an ending
_ENDINGS = 1000  # number of endings with a count of their own


class Found(NamedTuple):
    """The result of `walk`. All names are relative to `root`.

    Attributes:
      root: the folder.
      files: the files, sorted.
      passed: number of skipped files by ending; "" is no ending.
      unreadable: folders that could not be listed, each with the reason.
      special: pipes, sockets and devices with the name of a data file.
      runs: folders that hold a run of jssl.
      again: links to folders that were entered under another name.
    """

    root: str
    files: list[str]
    passed: collections.Counter[str]
    unreadable: dict[str, str]
    special: list[str]
    runs: list[str]
    again: list[str]

    def describe(self, what: str) -> str:
        """Returns one line with the number of files and of everything that was skipped.

        Args:
          what: the kind of the files, such as "images".
        """
        several = [(ending or "without an ending", n) for ending, n in self.passed.most_common(6)]
        skipped = [f"{n:,} {ending}" for ending, n in several]
        rest = self.passed.total() - sum(n for _, n in several)
        if rest:
            skipped.append(f"{rest:,} others")
        kinds = (
            ("unreadable folder", "unreadable folders", list(self.unreadable)),
            ("pipe or device", "pipes or devices", self.special),
            ("folder that holds a run", "folders that hold a run", self.runs),
            ("second name of a folder", "second names of folders", self.again),
        )
        skipped += [_listed(*kind) for kind in kinds if kind[2]]
        line = f"read the names of {len(self.files):,} {what} in {self.root}"
        return f"{line}; passed over {', '.join(skipped)}" if skipped else line

    def announce(self, what: str) -> None:
        """Logs `describe`: as a warning if folders could not be listed, else as information."""
        level = logging.WARNING if self.unreadable else logging.INFO
        log.log(level, "%s", self.describe(what))


def walk(root: str | os.PathLike, extensions: Sequence[str]) -> Found:
    """Finds all regular files below `root` that end in one of `extensions`.

    Args:
      root: a folder. It may be a link, and it may hold a run of jssl (then everything but `OUTPUT`
        is read).
      extensions: endings in lower case, with their dots: (".txt", ".txt.gz").

    Returns:
      The files, and everything that was skipped; see `Found`.

    Raises:
      UserError: `root` is not a folder, or the user may not list it.
      files.Unreachable: a folder could not be read now, and may be readable later.
    """
    root = os.fspath(root)
    found = Found(root, [], collections.Counter(), {}, [], [], [])
    seen: set[tuple[int, int]] = set()
    ahead = [""]
    # Links come last, so that a folder is entered under its own name and not under a link's.
    linked: collections.deque[str] = collections.deque()
    while ahead or linked:
        folder = ahead.pop() if ahead else linked.popleft()
        inner, links = _enter(found, folder, tuple(extensions), seen)
        ahead += sorted(inner, reverse=True)
        linked += sorted(links)
    found.files.sort()
    return found


def _enter(
    found: Found, folder: str, extensions: tuple[str, ...], seen: set[tuple[int, int]]
) -> tuple[list[str], list[str]]:
    """Adds the files of one folder to `found`; returns its folders and its links to folders."""
    path = os.path.join(found.root, folder) if folder else found.root
    inner: list[str] = []
    links: list[str] = []
    try:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            found.again.append(folder)
            return [], []
        seen.add(identity)
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
    prefix = os.path.join(folder, "") if folder else ""
    for entry in entries:
        name = prefix + entry.name
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


def _unlisted(found: Found, folder: str, path: str, error: OSError) -> None:
    """Records a folder that could not be listed, or raises if the walk must end."""
    reason = files.one_line(error)
    if not folder:
        raise ConfigError(
            "config.data.path",
            path,
            f"cannot be read ({reason})",
            "name a folder that you may read",
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
    """Returns whether a folder that contains `names` is the workdir of a run."""
    if "config.json" not in names or not names & {"checkpoints", "metrics.jsonl", "result.json"}:
        return False
    try:
        config = files.read_json(os.path.join(path, "config.json"), follow=True)
    except (files.Damaged, UserError, OSError):
        return True  # a run with a damaged config is still a run
    return isinstance(config, dict) and {"config", "versions"} <= config.keys()


def _count(passed: collections.Counter[str], name: str) -> None:
    """Counts the ending of a skipped file."""
    ending = os.path.splitext(name)[1].lower()
    if len(ending) > _ENDING or (ending not in passed and len(passed) >= _ENDINGS):
        ending = ".*"
    passed[ending] += 1


def _listed(singular: str, plural: str, names: list[str], shown: int = 3) -> str:
    """ "2 unreadable folders (a, b)"."""
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names):,} {singular if len(names) == 1 else plural} ({listed})"
