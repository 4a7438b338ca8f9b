"""Documents in files: which files a split has, and their text, a bounded part at a time.

A .txt file is one document, a line {"text": ...} of a .jsonl file is another; either may be
gzipped (.txt.gz, .jsonl.gz). Whatever a file holds, only a few megabytes of it are in memory, or
one line of a .jsonl file.
"""

import collections
import contextlib
import glob
import gzip
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from jssl.config import UserError
from jssl.data import files
from jssl.data.sampling import split_name
from jssl.data.splits import find_split, split_kind
from jssl.data.text.encoding import PART, Undecodable, decoded
from jssl.data.walk import walk

log = logging.getLogger("jssl")
EXTENSIONS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
LINE = 2**25  # characters that a line of a .jsonl file may have
_GROWTH = 200  # times that a gzipped file may grow; text grows by 3 to 20
_SMALL = 2**26  # bytes that it may grow to in any case
_ENOUGH = 100  # lines from which on a share of them means something
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may spell half a character: "\ud800"
_PREFIX = re.compile(r"[^\W\d_]*")  # of a file's name: "test" of test-00.txt.gz


class Tally(collections.Counter):
    """What was passed over or mended: "empty", "unreadable", "replaced", "odd"; see `pieces`.

    Attributes:
        lines: Lines of .jsonl files that were read.
        first: Where the first odd line is, and what is odd.
        encodings: How many files had which encoding.
    """

    def __init__(self):
        super().__init__()
        self.lines = 0
        self.first: tuple[str, str, str] | None = None
        self.encodings = collections.Counter()


class Reading(NamedTuple):
    """How files are read: the keys ``data.encoding``, ``text_key`` and ``max_damaged``."""

    encoding: str = ""
    text_key: str = "text"
    max_corrupt_fraction: float = 0.01


def parts(paths: list[str], how: Reading, tally: Tally) -> Iterator[tuple[Any, str, int]]:
    """(key of the document, part of its text, -1) of all files.

    Raises UserError for a file that cannot be read, is no text or grows beyond measure, and where
    more lines than `how.max_corrupt_fraction` are odd.
    """
    for path in paths:
        read = _lines if path.lower().removesuffix(".gz").endswith(".jsonl") else _whole
        with _border(path, how), files.open_regular(path, follow=True) as file:
            chunks = decoded(_unpacked(path, file), how.encoding, tally)
            yield from read(path, chunks, how, tally)
    _judge(how, tally, final=True)


@contextlib.contextmanager
def _border(path, how) -> Iterator[None]:
    try:
        with files.foreign(path):
            yield
    except FileNotFoundError:
        raise UserError(f"data.path={path} is gone, or leads nowhere; take it out") from None
    except files.Damaged as error:
        cure = "mend it, or take it out"
        if isinstance(error.__cause__, Undecodable):
            cure = "set data.encoding=latin-1, or the one that it has"
            if how.encoding:
                cure = "set data.encoding= (empty), so that it is detected"
        raise UserError(f"data.path={path} cannot be read ({error.reason}); {cure}") from None


class _unpacked:
    """A file as bytes, unpacked if it is gzipped. ValueError where it grows as a bomb does."""

    def __init__(self, path: str, file: IO[bytes]):
        packed = path.lower().endswith(".gz")
        self._stream = gzip.GzipFile(fileobj=file) if packed else file
        size = os.fstat(file.fileno()).st_size
        self._left = max(_SMALL, _GROWTH * size) if packed else None

    def read(self, size: int) -> bytes:
        raw = self._stream.read(size)
        if self._left is not None:
            self._left -= len(raw)
            if self._left < 0:
                raise ValueError(f"it grows more than {_GROWTH} times; if that is right, gunzip it")
        return raw


def bounded(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in parts of at most 3 times `PART` characters.

    Parts end behind a line break, else ahead of a word, else (where there is no space either)
    between any two characters.
    """
    held = ""
    for chunk in chunks:
        for at in range(0, len(chunk), PART):
            held += chunk[at : at + PART]
            if len(held) > PART:
                cut = _cut(held)
                yield held[:cut]
                held = held[cut:]
    if held:
        yield held


def _cut(text):
    line = text.rfind("\n") + 1
    if line:
        return line
    words = text.rsplit(None, 1)
    return len(words[0]) if len(words) == 2 else len(text)


def _whole(path, chunks, how, tally):
    for part in bounded(chunks):
        yield path, part, -1


def _lines(path, chunks, how, tally):
    for number, line in enumerate(_split(chunks), 1):
        if line is not None and not line.strip():
            continue
        tally.lines += 1
        text, reason, cure = _text(line, how.text_key)
        if text is None:
            tally["odd"] += 1
            tally.first = tally.first or (f"{path} line {number}", reason, cure)
            _judge(how, tally)
            continue
        text, halves = _SURROGATE.subn("\ufffd", text)
        tally["replaced"] += halves
        for part in bounded([text]) if text else [""]:
            yield (path, number), part, -1


def _split(chunks):
    """The lines of a text; None for one that is longer than `LINE`."""
    held = []
    size = 0
    for chunk in chunks:
        for count, part in enumerate(chunk.split("\n")):
            if count:
                yield "".join(held) if size <= LINE else None
                held = []
                size = 0
            size += len(part)
            if size <= LINE:
                held.append(part)
            else:
                held = []
    yield "".join(held) if size <= LINE else None


def _text(line, key):
    """(text, "", "") of a line, or (None, what is odd, the cure)."""
    mend = "mend it, or take it out"
    if line is None:
        return None, f"it has more than {LINE:,} characters", mend
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None, "it is no JSON", mend
    if not isinstance(found, dict):
        return None, f'it is not {{"{key}": "..."}}', mend
    if isinstance(found.get(key), str):
        return found[key], "", ""
    if key in found:
        return None, f'its "{key}" is no text', mend
    texts = {name: len(value) for name, value in found.items() if isinstance(value, str)}
    reason = f'it has no "{key}", only {", ".join(sorted(found)[:5]) or "nothing"}'
    return None, reason, f"set data.text_key={max(texts, key=texts.get)}" if texts else mend


def _judge(how, tally, final=False):
    """UserError if too many lines are odd: more than half of a few, else more than the share."""
    odd = tally["odd"]
    share = how.max_corrupt_fraction
    if share and tally.lines < _ENOUGH:
        share = max(share, 0.5)
    if odd > share * tally.lines and (final or odd > _ENOUGH):
        where, reason, cure = tally.first
        if odd < tally.lines:  # else nothing would be left
            cure += ", or set data.max_corrupt_fraction=1.0 to skip such lines"
        raise UserError(
            f"data.path={where} is wrong because {reason}, and {odd:,} of {tally.lines:,} lines "
            f"are; {cure}"
        )


def find(path: str, split: str) -> list[str]:
    """The files of a split, sorted: those below the folder of `path` that is named after it, else
    those in `path` that are (test.jsonl, test-00.txt.gz), else, for "train", all that belong to no
    other split.

    Raises UserError if there are none.
    """
    wanted = split_name(split)
    if not os.path.isdir(path):
        everything = _matching(path)
        found = everything if wanted == "train" else []
    else:
        everything, found = _of_folder(path, wanted)
    if not everything:
        raise UserError(
            f"data.path={path!r} is wrong because no text is there; give a file, a folder or a "
            f"pattern of files that end in {' '.join(EXTENSIONS)}"
        )
    if found:
        return found
    others = sorted({_split_of(file, path) for file in everything} - {""})
    raise UserError(
        f"data.split={split} is wrong because {path} has no folder {wanted} and no file named "
        f"after it (such as {wanted}.jsonl); use {others[0] if others else 'train'}, or a slice "
        f"such as {others[0] if others else 'train'}[:90%]"
    )


def _of_folder(path, wanted):
    """(all text files below a folder, those of a split)."""
    found = walk(path, EXTENSIONS)
    found.announce("text files")
    first = {name.split(os.sep)[0] for name in found.files if os.sep in name}
    own = find_split(wanted, first, path)
    if own is not None:
        chosen = [name for name in found.files if name.startswith(own + os.sep)]
    else:
        here = [name for name in found.files if os.sep not in name]
        chosen = [name for name in here if _named(name, wanted)]
        if not chosen and wanted == "train":
            chosen = [name for name in found.files if not _split_of(name)]
            left = len(found.files) - len(chosen)
            if chosen and left:
                log.info("%s: %d files are left out: they are of other splits", path, left)
    full = [os.path.join(path, name) for name in found.files]
    return full, [os.path.join(path, name) for name in chosen]


def _named(name, wanted):
    """Whether a file is named after a split: test-00.txt.gz after "test"."""
    prefix = _PREFIX.match(name)[0]
    behind = name[len(wanted) : len(wanted) + 1]
    exact = name.lower().startswith(wanted.lower()) and not behind.isalnum()
    return exact or (bool(split_kind(prefix)) and split_kind(prefix) == split_kind(wanted))


def _split_of(name, root=""):
    """The split that the name of a file, or of the first folder it lies in, means, or ""."""
    name = os.path.relpath(name, root) if root else name
    first, _, rest = name.partition(os.sep)
    return split_kind(first) if rest else split_kind(_PREFIX.match(first)[0])


def _matching(path):
    """The files of a pattern, which may be the path of one file."""
    found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    found = [file for file in found if os.path.isfile(file)]
    strange = [file for file in found if not file.lower().endswith(EXTENSIONS)]
    if strange:
        raise UserError(
            f"data.path={path} is wrong because {strange[0]} ends in none of "
            f"{' '.join(EXTENSIONS)}; rename it, or write another pattern"
        )
    return found
