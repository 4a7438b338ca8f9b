"""Documents of text, one after the other: from files, or from a set that TFDS has prepared.

`text_files` describes the files. At most a line, or half a megabyte, is in memory at a time.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pydoc_data.topics import topics  # half a megabyte of English in every Python
from typing import Any, NamedTuple

from jssl.config import ConfigError, suggest
from jssl.data.sampling import split_rows, split_span
from jssl.data.text import encoding as encodings
from jssl.data.text import text_files
from jssl.data.text.text_files import Reading, Tally, bounded

_RECORDS = 1024  # records of TFDS that are read at a time
_BLANK = 2**18  # characters of white space before a document's text that are kept


Piece = tuple[Any, str, int]  # key of the document, a part of its text, label


class Corpus(NamedTuple):
    """Documents that can be read repeatedly, always in the same order.

    Attributes:
      name: name of the corpus, for messages.
      key: the config key that names it, for messages.
      parts: parts(tally) iterates over (key of the document, part of its text, label).
      classes: label names, or None.
      split: the split whose slice is not cut yet; "" if there is none.
    """

    name: str
    key: str
    parts: Callable[[Tally], Iterator[Piece]]
    classes: list[str] | None
    split: str


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
    damaged: dict[str, str] | None = None,
) -> Corpus:
    """Opens the documents that the config section `data` describes.

    The arguments are keys of this section (see `jssl.data.load`), and `damaged`, which receives the
    files that cannot be read (`text_files.parts`).

    Raises:
      UserError: a key is wrong, or the data cannot be used.
    """
    how = Reading(encodings.codec(encoding), text_key, max_corrupt_fraction)
    refuse(source, encoding, text_key)
    if source == "tfds":
        from jssl.data.sources.tfds_source import open_text

        records, key, classes = open_text(name, dir, split)

        def record_parts(tally):
            return _records(records, key, classes, tally)

        return Corpus(f"{name} {split}", f"--config.data.name={name!r}", record_parts, classes, "")
    if source == "pydoc":

        def topic_parts(tally):
            return ((key, text, -1) for key, text in sorted(topics.items()))

        return Corpus(f"pydoc {split}", "--config.data.source='pydoc'", topic_parts, None, split)
    if source != "text":
        raise ConfigError("config.data.source", source, "it is no text", suggest(source, TEXT))
    files = text_files.find(os.path.expanduser(path), split)

    def file_parts(tally):
        return text_files.parts(files, how, tally, damaged)

    return Corpus(f"{path} {split}", f"--config.data.path={path!r}", file_parts, None, split)


TEXT = ("text", "tfds", "pydoc")  # the sources that `open_corpus` opens


def refuse(source: str, encoding: str, text_key: str) -> None:
    """Raises UserError if a key of text files is set, and `source` is not text files."""
    if source == "text":
        return
    if encoding:
        raise ConfigError(
            "config.data.encoding", encoding, "for --config.data.source=text", "leave it empty"
        )
    if text_key != "text":
        raise ConfigError(
            "config.data.text_key",
            text_key,
            "for --config.data.source=text",
            "use --config.data.text_key=text",
        )


def pieces(corpus: Corpus, tally: Tally) -> Iterator[tuple[int, str, int]]:
    """Yields (number of the document, part of its text, label), without empty documents.

    If there is a single document, a slice in percent is a part of its text.

    Args:
      corpus: the documents.
      tally: counts documents that are "empty" or "unreadable", lines that are "odd", and byte
        sequences that are "replaced" because they are not valid in the encoding.

    Raises:
      UserError: a file cannot be read.
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
    selected = split_rows(corpus.split, count) if count else None
    rows = set(range(count) if selected is None else selected.tolist())
    yield from (piece for piece in _numbered(corpus, tally) if piece[0] in rows)


def _stretch(corpus: Corpus, tally: Tally, span: tuple[int, int]) -> Iterator[tuple[int, str, int]]:
    """Yields the characters from span[0] to span[1] of the only document.

    Both ends are moved forward to the next space. So adjacent slices do not cut a word, and are
    disjoint.
    """
    position = 0
    for number, text, label in _numbered(corpus, tally):
        first, last = (_space(text, bound - position) for bound in span)
        position += len(text)
        if first < last:
            yield number, text[first:last], label


def _space(text: str, position: int) -> int:
    """Returns the position of the first space at `position` or later."""
    if position <= 0 or position >= len(text):
        return min(max(position, 0), len(text))
    match = re.compile(r"\s").search(text, position)
    return match.start() if match else position


def _numbered(corpus: Corpus, tally: Tally) -> Iterator[tuple[int, str, int]]:
    """Numbers the documents, and leaves out empty ones."""
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


def _records(
    records: Any, key: str, classes: Sequence[str] | None, tally: Tally
) -> Iterator[Piece]:
    """Yields the documents of a TFDS set."""
    for first in range(0, len(records), _RECORDS):
        rows = range(first, min(first + _RECORDS, len(records)))
        for index, record in zip(rows, _fetch(records, rows), strict=True):
            if record is None:
                tally["unreadable"] += 1
                continue
            text = _utf8(record[key], tally)
            for part in bounded([text]) if text else [""]:
                yield index, part, record["label"] if classes else -1


def _fetch(records: Any, rows: range) -> list[Any]:
    """Reads many records together; None for a damaged one."""
    try:
        return records.__getitems__(list(rows))
    except Exception:  # noqa: BLE001 - one damaged record fails all: try each alone
        return [_read_record(records, index) for index in rows]


def _read_record(records: Any, index: int) -> Any:
    try:
        return records[index]
    except Exception:  # noqa: BLE001 - ArrayRecord and the parser raise errors of many types
        return None


def _utf8(raw: bytes, tally: Tally) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        tally["replaced"] += text.count("\ufffd") - raw.count("\ufffd".encode())
        return text
