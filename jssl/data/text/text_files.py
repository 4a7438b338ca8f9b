"""Documents in files: the files of a split, and their text, a bounded part at a time.

A .txt file is one document, and a line {"text": ...} of a .jsonl file is one too. Either may be
gzipped (.txt.gz, .jsonl.gz). Of any file, only a few megabytes are in memory, or one line of a
.jsonl file.
"""

from __future__ import annotations

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

from jssl.config import ConfigError
from jssl.data import files
from jssl.data.sampling import split_name
from jssl.data.splits import find_split, split_kind
from jssl.data.text.encoding import PART, Stream, Undecodable, decoded
from jssl.data.walk import walk
from jssl.errors import short

log = logging.getLogger("jssl")
EXTENSIONS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
LINE = 2**25  # longest line of a .jsonl file, in characters
_GROWTH = 200  # largest ratio of unpacked to gzipped size; text has 3 to 20
_SMALL = 2**26  # unpacked bytes that are always allowed
_ENOUGH = 100  # lines; below this count a fraction of them is not meaningful
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may contain half a character: "\ud800"
_PREFIX = re.compile(r"[^\W\d_]*")  # of a file name: "test" of test-00.txt.gz


class Tally(collections.Counter[str]):
    """Counts skipped and replaced items: "empty", "unreadable", "replaced", "odd"; see `pieces`.

    Attributes:
      lines: number of lines of .jsonl files that were read.
      first: the file and number of the first odd line, the reason and the cure; None without one.
      encodings: number of files by encoding.
    """

    def __init__(self):
        super().__init__()
        self.lines = 0
        self.first: tuple[str, int, str, str] | None = None
        self.encodings: collections.Counter[str] = collections.Counter()


class Reading(NamedTuple):
    """The config keys ``data.encoding``, ``text_key`` and ``max_corrupt_fraction``."""

    encoding: str = ""
    text_key: str = "text"
    max_corrupt_fraction: float = 0.01


def parts(
    paths: list[str], how: Reading, tally: Tally, damaged: dict[str, str] | None = None
) -> Iterator[tuple[Any, str, int]]:
    """Yields (key of the document, part of its text, -1) of all files.

    Args:
      paths: the files.
      how: the config keys of text files.
      tally: counts skipped and replaced items.
      damaged: receives {file: reason} of each file that cannot be read, and the others are read on.
        If it is None, such a file raises.

    Raises:
      UserError: a file cannot be read, is not text or unpacks to too many bytes; or the fraction of
        odd lines exceeds `how.max_corrupt_fraction`.
    """
    for path in paths:
        read = _lines if path.lower().removesuffix(".gz").endswith(".jsonl") else _whole
        try:
            with _border(path, how), files.open_regular(path, follow=True) as file:
                chunks = decoded(_Unpacked(path, file), how.encoding, tally)
                yield from read(path, chunks, how, tally)
        except ConfigError as error:
            if damaged is None:
                raise
            damaged[path] = str(error).removeprefix(f"--config.data.path={short(path)}: ")
    _judge(how, tally, final=True)


@contextlib.contextmanager
def _border(path: str, how: Reading) -> Iterator[None]:
    """Converts errors of a text file to a UserError with a cure."""
    try:
        with files.foreign(path):
            yield
    except FileNotFoundError:
        raise ConfigError(
            "config.data.path", path, "gone, or leads nowhere", "take it out"
        ) from None
    except files.Damaged as error:
        cure = "mend it, or take it out"
        if isinstance(error.__cause__, Undecodable):
            cure = "set --config.data.encoding=latin-1, or the one that it has"
            if how.encoding:
                cure = "set --config.data.encoding= (empty), so that it is detected"
        raise ConfigError(
            "config.data.path", path, f"cannot be read ({error.reason})", cure
        ) from None


class _Unpacked:
    """The bytes of a file, unpacked if it is gzipped; ValueError for a decompression bomb."""

    def __init__(self, path: str, file: IO[bytes]):
        packed = path.lower().endswith(".gz")
        self._stream: Stream = gzip.GzipFile(fileobj=file) if packed else file
        size = os.fstat(file.fileno()).st_size
        self._left = max(_SMALL, _GROWTH * size) if packed else None

    def read(self, size: int, /) -> bytes:
        raw = self._stream.read(size)
        if self._left is not None:
            self._left -= len(raw)
            if self._left < 0:
                raise ValueError(f"it grows more than {_GROWTH} times; if that is right, gunzip it")
        return raw


def bounded(chunks: Iterable[str]) -> Iterator[str]:
    """Yields the same text in parts of at most 3 times `PART` characters.

    A part ends after a line break, else before a word, else (if there is no space) between any two
    characters.
    """
    buffer = ""
    for chunk in chunks:
        for start in range(0, len(chunk), PART):
            buffer += chunk[start : start + PART]
            if len(buffer) > PART:
                cut = _cut(buffer)
                yield buffer[:cut]
                buffer = buffer[cut:]
    if buffer:
        yield buffer


def _cut(text: str) -> int:
    """Returns the position at which to cut a text."""
    line = text.rfind("\n") + 1
    if line:
        return line
    words = text.rsplit(None, 1)
    return len(words[0]) if len(words) == 2 else len(text)


def _whole(
    path: str, chunks: Iterable[str], how: Reading, tally: Tally
) -> Iterator[tuple[str, str, int]]:
    """Yields the parts of a .txt file."""
    for part in bounded(chunks):
        yield path, part, -1


def _lines(
    path: str, chunks: Iterable[str], how: Reading, tally: Tally
) -> Iterator[tuple[tuple[str, int], str, int]]:
    """Yields the parts of the lines of a .jsonl file."""
    for number, line in enumerate(_split(chunks), 1):
        if line is not None and not line.strip():
            continue
        tally.lines += 1
        text, reason, cure = _text(line, how.text_key)
        if text is None:
            tally["odd"] += 1
            tally.first = tally.first or (path, number, reason, cure)
            _judge(how, tally)
            continue
        text, surrogates = _SURROGATE.subn("\ufffd", text)
        tally["replaced"] += surrogates
        for part in bounded([text]) if text else [""]:
            yield (path, number), part, -1


def _split(chunks: Iterable[str]) -> Iterator[str | None]:
    """Yields the lines of a text; None for one that is longer than `LINE`."""
    buffer: list[str] = []
    size = 0
    for chunk in chunks:
        for count, part in enumerate(chunk.split("\n")):
            if count:
                yield "".join(buffer) if size <= LINE else None
                buffer = []
                size = 0
            size += len(part)
            if size <= LINE:
                buffer.append(part)
            else:
                buffer = []
    yield "".join(buffer) if size <= LINE else None


def _text(line: str | None, key: str) -> tuple[str | None, str, str]:
    """Returns (text, "", "") of a line, or (None, the reason why it is odd, the cure)."""
    mend = "mend it, or take it out"
    if line is None:
        return None, f"it has more than {LINE:,} characters", mend
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None, "it is no JSON", mend
    if not isinstance(record, dict):
        return None, f'it is not {{"{key}": "..."}}', mend
    if isinstance(record.get(key), str):
        return record[key], "", ""
    if key in record:
        return None, f'its "{key}" is no text', mend
    lengths = {name: len(value) for name, value in record.items() if isinstance(value, str)}
    reason = f'it has no "{key}", only {", ".join(sorted(record)[:5]) or "nothing"}'
    if not lengths:
        return None, reason, mend
    longest = max(lengths, key=lambda name: lengths[name])
    return None, reason, f"set --config.data.text_key={longest}"


def _judge(how: Reading, tally: Tally, final: bool = False) -> None:
    """Raises UserError if too many lines are odd.

    More than half of a few lines are too many, else more than `how.max_corrupt_fraction`.
    """
    odd = tally["odd"]
    fraction = how.max_corrupt_fraction
    if fraction and tally.lines < _ENOUGH:
        fraction = max(fraction, 0.5)
    if odd > fraction * tally.lines and (final or odd > _ENOUGH):
        assert tally.first is not None, "it is set with the first odd line"
        path, number, reason, cure = tally.first
        if odd < tally.lines:  # else nothing remains
            cure += ", or set --config.data.max_corrupt_fraction=1.0 to skip such lines"
        raise ConfigError(
            "config.data.path",
            path,
            f"line {number}: {reason}, as {odd:,} of {tally.lines:,} lines",
            cure,
        )


def find(path: str, split: str) -> list[str]:
    """Returns the files of a split, sorted.

    They are the files below the folder of `path` that is named after the split. If there is none,
    they are the files in `path` that are (test.jsonl, test-00.txt.gz). If there are none either,
    and the split is "train", they are all files that belong to no other split.

    Args:
      path: a file, a folder, or a pattern of files.
      split: the split.

    Raises:
      UserError: there are no such files.
    """
    base = split_name(split)
    if not os.path.isdir(path):
        everything = _matching(path)
        selected = everything if base == "train" else []
    else:
        everything, selected = _of_folder(path, base)
    if not everything:
        raise ConfigError(
            "config.data.path",
            path,
            "no text is there",
            f"give a file, a folder or a pattern of files that end in {' '.join(EXTENSIONS)}",
        )
    if selected:
        return selected
    others = sorted({_split_of(file, path) for file in everything} - {""})
    raise ConfigError(
        "config.data.split",
        split,
        f"{path} has no folder {base} and no file named after it (such as {base}.jsonl)",
        f"use {(others[0] if others else 'train')}, or a slice such as "
        f"{(others[0] if others else 'train')}[:90%]",
    )


def _of_folder(path: str, base: str) -> tuple[list[str], list[str]]:
    """Returns (all text files below a folder, the files of a split)."""
    listing = walk(path, EXTENSIONS)
    listing.announce("text files")
    first = {name.split(os.sep)[0] for name in listing.files if os.sep in name}
    own = find_split(base, first, path)
    if own is not None:
        selected = [name for name in listing.files if name.startswith(own + os.sep)]
    else:
        here = [name for name in listing.files if os.sep not in name]
        selected = [name for name in here if _named(name, base)]
        if not selected and base == "train":
            selected = [name for name in listing.files if not _split_of(name)]
            left = len(listing.files) - len(selected)
            if selected and left:
                log.info("%s: %d files are left out: they are of other splits", path, left)
    full = [os.path.join(path, name) for name in listing.files]
    return full, [os.path.join(path, name) for name in selected]


def _named(name: str, base: str) -> bool:
    """Returns whether a file is named after a split: test-00.txt.gz after "test"."""
    prefix = _prefix(name)
    behind = name[len(base) : len(base) + 1]
    exact = name.lower().startswith(base.lower()) and not behind.isalnum()
    return exact or (bool(split_kind(prefix)) and split_kind(prefix) == split_kind(base))


def _split_of(name: str, root: str = "") -> str:
    """Returns the split that the name of a file, or of its first folder, means; "" for none."""
    name = os.path.relpath(name, root) if root else name
    first, _, rest = name.partition(os.sep)
    return split_kind(first) if rest else split_kind(_prefix(first))


def _prefix(name: str) -> str:
    """Returns the letters at the beginning of a file name."""
    match = _PREFIX.match(name)
    return match[0] if match else ""


def _matching(path: str) -> list[str]:
    """Returns the files of a pattern, which may be the path of one file."""
    matches = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    matches = [file for file in matches if os.path.isfile(file)]
    strange = [file for file in matches if not file.lower().endswith(EXTENSIONS)]
    if strange:
        raise ConfigError(
            "config.data.path",
            path,
            f"{strange[0]} ends in none of {' '.join(EXTENSIONS)}",
            "rename it, or write another pattern",
        )
    return matches
