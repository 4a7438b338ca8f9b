"""Documents of text, one after the other: from files, or from a set that TFDS has prepared.

Files are described in `textfiles`. At most a line, or half a megabyte, is in memory at a time.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from pydoc_data.topics import topics  # half a megabyte of English that every Python brings
from typing import NamedTuple

from jssl.config import UserError, suggest
from jssl.data.sampling import split_rows, split_span
from jssl.data.text import encoding as encodings
from jssl.data.text import text_files
from jssl.data.text.text_files import Reading, Tally, bounded

_RECORDS = 1024  # records of TFDS that are read at a time
_BLANK = 2**18  # characters of space ahead of a document's text that are kept


class Corpus(NamedTuple):
    """Documents that can be read again and again, always in the same order."""

    name: str
    key: str  # of the config that named it, for messages
    parts: Callable  # (Tally) -> iterator of (key of the document, part of its text, label)
    classes: list | None  # names of the labels, if there are any
    split: str  # whose slice is yet to be cut; "": none


def open_corpus(
    *,
    source: str,
    name: str,
    path: str,
    dir: str,
    split: str,
    encoding: str = "",
    text_key: str = "text",
    max_corrupt_fraction: float = 0.01,
) -> Corpus:
    """The documents that the config's section `data` names; see `jssl.data.load`."""
    how = Reading(encodings.codec(encoding), text_key, max_corrupt_fraction)
    refuse(source, encoding, text_key)
    if source == "tfds":
        from jssl.data.sources.tfds_source import open_text

        records, key, classes = open_text(name, dir, split)

        def parts(tally):
            return _records(records, key, classes, tally)

        return Corpus(f"{name} {split}", f"data.name={name}", parts, classes, "")
    if source == "pydoc":

        def parts(tally):
            return ((key, text, -1) for key, text in sorted(topics.items()))

        return Corpus(f"pydoc {split}", "data.source=pydoc", parts, None, split)
    if source != "text":
        raise UserError(f"data.source={source!r} is wrong: it is no text; {suggest(source, TEXT)}")
    files = text_files.find(os.path.expanduser(path), split)

    def parts(tally):
        return text_files.parts(files, how, tally)

    return Corpus(f"{path} {split}", f"data.path={path}", parts, None, split)


TEXT = ("text", "tfds", "pydoc")  # what `open_corpus` opens


def refuse(source: str, encoding: str, text_key: str) -> None:
    """UserError for keys of text files where no text files are read."""
    if source == "text":
        return
    if encoding:
        raise UserError(f"data.encoding={encoding} is for data.source=text; leave it empty")
    if text_key != "text":
        raise UserError(f"data.text_key={text_key} is for data.source=text; use data.text_key=text")


def pieces(corpus: Corpus, tally: Tally) -> Iterator[tuple[int, str, int]]:
    """(number of the document, part of its text, label), without empty documents.

    `tally` counts what was "empty", "unreadable", lines that were "odd", and the sequences that
    were "replaced" because they are not of the encoding. Where there is a single document, a slice
    in percent is a part of its text. Raises UserError for what cannot be read.
    """
    if "[" not in corpus.split:
        yield from _numbered(corpus, tally)
        return
    count = 0
    size = 0
    for number, text, _ in _numbered(corpus, Tally()):
        count = number + 1
        size += len(text)
    span = split_span(corpus.split, count, size)
    if span:
        yield from _stretch(corpus, tally, span)
        return
    chosen = split_rows(corpus.split, count) if count else None
    rows = set(range(count) if chosen is None else chosen.tolist())
    yield from (piece for piece in _numbered(corpus, tally) if piece[0] in rows)


def _stretch(corpus, tally, span):
    """The characters from span[0] to span[1] of the only document. Both ends are moved forward to
    the next space, so that two slices that meet cut no word and share nothing."""
    at = 0
    for number, text, label in _numbered(corpus, tally):
        first, last = (_space(text, place - at) for place in span)
        at += len(text)
        if first < last:
            yield number, text[first:last], label


def _space(text, place):
    if place <= 0 or place >= len(text):
        return min(max(place, 0), len(text))
    found = re.compile(r"\s").search(text, place)
    return found.start() if found else place


def _numbered(corpus, tally):
    number = 0
    for _, parts in itertools.groupby(corpus.parts(tally), itemgetter(0)):
        blank = ""
        begun = False
        for _, text, label in parts:
            if not begun and not text.strip():
                blank = (blank + text)[-_BLANK:]
                continue
            yield number, blank + text, label
            blank = ""
            begun = True
        number += begun
        tally["empty"] += not begun


def _records(records, key, classes, tally):
    for first in range(0, len(records), _RECORDS):
        wanted = range(first, min(first + _RECORDS, len(records)))
        for index, record in zip(wanted, _fetch(records, wanted), strict=True):
            if record is None:
                tally["unreadable"] += 1
                continue
            text = _utf8(record[key], tally)
            for part in bounded([text]) if text else [""]:
                yield index, part, record["label"] if classes else -1


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


def _utf8(raw: bytes, tally) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        tally["replaced"] += text.count("\ufffd") - raw.count("\ufffd".encode())
        return text
