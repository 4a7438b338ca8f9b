"""Documents of text, one after the other: from files, or from a set that TFDS has prepared.

A .txt file is one document, a line {"text": ...} of a .jsonl file is another; either may be
gzipped (.txt.gz, .jsonl.gz). At most a line, or a quarter of a megabyte, is in memory at a time.
"""

import collections
import glob
import gzip
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from operator import itemgetter
from pydoc_data.topics import topics  # half a megabyte of English that every Python brings
from typing import NamedTuple

from jssl.config import UserError, near
from jssl.data.order import split_name, split_rows

EXTENSIONS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_PART = 2**18  # bytes of a file that are tokenized at a time
_RECORDS = 1024  # records of TFDS that are read at a time
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may spell half a character: "\ud800"


class Corpus(NamedTuple):
    """Documents that can be read again and again, always in the same order."""

    name: str
    key: str  # of the config that named it, for messages
    parts: Callable  # (tally) -> iterator of (key of the document, part of its text, label)
    classes: list | None  # names of the labels, if there are any
    split: str  # whose slice is yet to be cut; "": none


def open_corpus(*, source: str, name: str, path: str, dir: str, split: str) -> Corpus:
    """The documents that the config's section `data` names; see `jssl.data.load`."""
    if source == "tfds":
        from jssl.data.tfds_source import open_text

        records, key, classes = open_text(name, dir, split)
        parts = lambda tally: _records(records, key, classes, tally)
        return Corpus(f"{name} {split}", f"data.name={name}", parts, classes, "")
    if source == "pydoc":
        parts = lambda tally: ((key, text, -1) for key, text in sorted(topics.items()))
        return Corpus(f"pydoc {split}", "data.source=pydoc", parts, None, split)
    if source != "text":
        raise UserError(f"data.source={source!r} is wrong: it is no text; {near(source, TEXT)}")
    files = _find(os.path.expanduser(path), split)
    parts = lambda tally: _files(files, tally)
    return Corpus(f"{path} {split}", f"data.path={path}", parts, None, split)


TEXT = ("text", "tfds", "pydoc")  # what `open_corpus` opens


def pieces(corpus: Corpus, tally: collections.Counter) -> Iterator[tuple[int, str, int]]:
    """(number of the document, part of its text, label), without empty documents.

    `tally` counts what was "empty", "unreadable", and how many bytes were "replaced" because they
    are no UTF-8. Raises UserError for what cannot be read.
    """
    if "[" not in corpus.split:
        yield from _numbered(corpus, tally)
        return
    count = 1 + max((k for k, _, _ in _numbered(corpus, collections.Counter())), default=-1)
    chosen = split_rows(corpus.split, count) if count else None
    rows = set(range(count) if chosen is None else chosen.tolist())
    yield from (piece for piece in _numbered(corpus, tally) if piece[0] in rows)


def _numbered(corpus, tally):
    number = 0
    for _, parts in itertools.groupby(corpus.parts(tally), itemgetter(0)):
        blank, begun, label = "", False, -1
        for _, text, label in parts:  # noqa: B007 - the label is needed after the loop
            blank += text
            if blank.strip():
                yield number, blank, label
                blank, begun = "", True
        if begun and blank:
            yield number, blank, label
        number += begun
        tally["empty"] += not begun


def _records(records, key, classes, tally):
    for first in range(0, len(records), _RECORDS):
        wanted = range(first, min(first + _RECORDS, len(records)))
        for index, record in zip(wanted, _fetch(records, wanted), strict=True):
            if record is None:
                tally["unreadable"] += 1
            else:
                yield index, _utf8(record[key], tally), record["label"] if classes else -1


def _fetch(records, wanted):
    try:
        return records.__getitems__(list(wanted))
    except Exception:  # noqa: BLE001 - one damaged record fails all: try each alone
        return [_one(records, index) for index in wanted]


def _one(records, index):
    try:
        return records[index]
    except Exception:  # noqa: BLE001 - ArrayRecord and the parser raise errors of many types
        return None


def _files(files, tally):
    for file in files:
        lines = _jsonl if file.removesuffix(".gz").endswith(".jsonl") else _plain
        try:
            with gzip.open(file) if file.endswith(".gz") else open(file, "rb") as stream:
                if stream.read(3) != b"\xef\xbb\xbf":  # a byte order mark is no text
                    stream.seek(0)
                yield from lines(file, stream, tally)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"data.path={file} cannot be read ({error}); mend it, or take it out"
            ) from None


def _plain(file, stream, tally):
    while part := stream.read(_PART) + stream.readline():  # so that no word is cut
        yield file, _utf8(part, tally), -1


def _jsonl(file, stream, tally):
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(_utf8(line, tally))["text"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f'data.path={file} line {number} is wrong because it is not {{"text": "..."}}; '
                "mend it, or take it out"
            ) from None
        text, halves = _SURROGATE.subn("\ufffd", text)
        tally["replaced"] += halves
        yield (file, number), text, -1


def _utf8(raw: bytes, tally) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        tally["replaced"] += text.count("\ufffd") - raw.count("\ufffd".encode())
        return text


def _find(path, split):
    """The files of a split, sorted: those below path/<split>, else those in `path` that are named
    after it (test.jsonl, test-00.txt.gz), else, for "train", all there are."""
    wanted = split_name(split)
    below, named = os.path.join(path, wanted), re.compile(re.escape(wanted) + r"(?![A-Za-z0-9])")
    if not os.path.isdir(path):
        everything, found = _matching(path), []
    elif os.path.isdir(below):
        everything = found = sorted(_below(below))
    else:
        everything, names = sorted(_below(path)), filter(named.match, os.listdir(path))
        found = sorted({os.path.join(path, name) for name in names} & set(everything))
    if not everything:
        raise UserError(
            f"data.path={path!r} is wrong because no text is there; give a file, a folder or a "
            f"pattern of files that end in {' '.join(EXTENSIONS)}"
        )
    if found or wanted == "train":
        return found or everything
    raise UserError(
        f"data.split={split} is wrong because {path} has no folder {wanted} and no file named "
        f"after it (such as {wanted}.jsonl); use train, or a slice such as train[90%:]"
    )


def _matching(path):
    """The files of a pattern, which may be the path of one file."""
    found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    found = [file for file in found if os.path.isfile(file)]
    strange = [file for file in found if not file.endswith(EXTENSIONS)]
    if strange:
        raise UserError(
            f"data.path={path} is wrong because {strange[0]} ends in none of "
            f"{' '.join(EXTENSIONS)}; rename it, or write another pattern"
        )
    return found


def _below(root):
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if name.endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(folder, name)
