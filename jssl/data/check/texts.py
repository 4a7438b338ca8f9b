"""The report of one split of text: documents, their lengths, duplicates and damage."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from jssl.data.check import classes, duplicates, listing
from jssl.data.text import corpora, text_files
from jssl.log import log_progress

BYTES = 2**32  # of text, after which no further document is read without --examples
SHOWN = 20  # files that a list in the report names
START = 60  # characters of a document that name it in the report


class Document(NamedTuple):
    """What one document tells.

    Attributes:
      name: its number, and its first characters.
      size: bytes in UTF-8.
      label: its label; -1 if it has none.
      content: SHA-256 of its text in UTF-8.
    """

    name: str
    size: int
    label: int
    content: bytes


class Reading(NamedTuple):
    """The documents of a split that were read, and what was skipped.

    Attributes:
      documents: the documents.
      tally: see `corpora.pieces`.
      complete: whether all documents were read.
    """

    documents: list[Document]
    tally: text_files.Tally
    complete: bool


def read(corpus: corpora.Corpus, limit: int, most_bytes: int, what: str) -> Reading:
    """Reads the first documents of a corpus.

    Args:
      corpus: the documents.
      limit: largest number of documents.
      most_bytes: bytes after which no further document is read.
      what: the name of the split, for the lines about progress.

    Raises:
      UserError: the corpus cannot be read.
    """
    tally = text_files.Tally()
    documents: list[Document] = []
    progress = log_progress(f"{what}: documents read")
    total = 0
    for document in _documents(corpus, tally):
        if len(documents) == limit or total > most_bytes:
            return Reading(documents, tally, False)
        documents.append(document)
        total += document.size
        progress(len(documents), limit, " at most")
    return Reading(documents, tally, True)


def describe(
    corpus: corpora.Corpus, reading: Reading, damaged: dict[str, str], section: Any
) -> dict[str, Any]:
    """Returns the report of a split, as JSON values.

    Args:
      corpus: the documents.
      reading: what `read` returned.
      damaged: {file: reason} of the files that cannot be read.
      section: the config section `data`.
    """
    documents, tally, complete = reading
    sizes = [document.size for document in documents] or [0]
    labels = [document.label for document in documents]
    report: dict[str, Any] = {
        "name": corpus.name,
        "examples": len(documents),
        "complete": complete,
    }
    root = os.path.expanduser(section.path)
    if section.source == "text" and os.path.isdir(root):
        report["files"] = listing.describe(root, text_files.EXTENSIONS)
    prefix = os.path.join(root, "")
    first = [
        {"name": path.removeprefix(prefix), "reason": reason}
        for path, reason in list(damaged.items())[:SHOWN]
    ]
    odd = None
    if tally.first is not None:
        path, line, reason, cure = tally.first
        odd = {"name": f"{path.removeprefix(prefix)}:{line}", "reason": reason, "cure": cure}
    return report | {
        "unreadable": {"count": len(damaged) + tally["unreadable"], "first": first},
        "lines": {"read": tally.lines, "odd": tally["odd"], "first": odd},
        "encodings": dict(tally.encodings.most_common()),
        "replaced": tally["replaced"],
        "empty": tally["empty"],
        "bytes": sum(sizes),
        "length": [int(x) for x in np.quantile(sizes, (0, 0.05, 0.5, 0.95, 1), method="nearest")],
        "duplicates": duplicates.within(
            [document.content for document in documents], labels, lambda at: documents[at].name
        ),
        "labels": classes.counted(labels, corpus.classes, "the data set"),
    }


def between(one: Sequence[Document], other: Sequence[Document]) -> dict[str, Any]:
    """Returns what two splits share.

    Returns:
      {"same_files": 0, "documents": the documents of `other` that are in `one`
      (`duplicates.between`)}.
    """
    shared = duplicates.between(
        [document.content for document in one],
        [document.content for document in other],
        lambda at: one[at].name,
        lambda at: other[at].name,
    )
    return {"same_files": 0, "documents": shared}


def _documents(corpus: corpora.Corpus, tally: text_files.Tally) -> Iterator[Document]:
    for number, parts in itertools.groupby(corpora.pieces(corpus, tally), itemgetter(0)):
        digest = hashlib.sha256()
        start = ""
        size = 0
        label = -1
        for _, text, its_label in parts:
            label = its_label
            raw = text.encode("utf-8", "replace")
            start = start or " ".join(text[: 4 * START].split())[:START]
            digest.update(raw)
            size += len(raw)
        yield Document(f'document {number} ("{start}")', size, label, digest.digest())
