"""Tokenizes documents into one flat array of tokens, in memory or in a packed directory."""

import array
import io
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import IO

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.data.sources.packed import atomic_directory, folder_bytes
from jssl.data.text import corpora, tokenizer
from jssl.data.text.text_source import VERSION, Tokens
from jssl.data.text.tokenizer import Tokenizer

log = logging.getLogger("jssl")
_BATCH = 2**21  # characters that all cores tokenize together
_WORDS = 2**24  # characters of distinct words, for the training of a tokenizer
_SEEN = 2**19  # number of words that are remembered, to find distinct ones
_RUN = (
    1000  # longest run of characters without a space, or of spaces, in the training of a tokenizer
)
_LONG = re.compile(rf"\S{{{_RUN + 1}}}|\s{{{_RUN + 1}}}")


def load_in_memory(
    corpus: corpora.Corpus, tokens: Tokenizer, length: int, pack: bool, words: bool = False
) -> Tokens:
    """Tokenizes a corpus now, and returns a source that keeps it in memory.

    Args:
      corpus: the documents.
      tokens: the tokenizer.
      length, pack, words: see `Tokens`.

    Raises:
      UserError: the corpus has no text, or cannot be read.
    """
    file = io.BytesIO()
    offsets, labels, _ = tokenize(corpus, tokens, file)
    flat = np.frombuffer(file.getbuffer(), tokens.dtype)
    return Tokens(corpus.name, flat, offsets, tokens, length, pack, words, labels, corpus.classes)


def tokenize(
    corpus: corpora.Corpus, tokens: Tokenizer, file: IO[bytes]
) -> tuple[np.ndarray, np.ndarray, corpora.Tally]:
    """Writes all tokens to a binary file. Streams: documents need not fit into memory.

    Args:
      corpus: the documents.
      tokens: the tokenizer.
      file: receives the tokens, in the dtype of the tokenizer.

    Returns:
      Offsets int64 [D + 1] and labels int32 [D] of D documents, and a `Tally` of skipped input.

    Raises:
      UserError: the corpus has no text, or cannot be read.
    """
    offsets = array.array("q", [0])
    labels = array.array("i")
    tally = corpora.Tally()
    end = np.array(tokens.vocab["end"], tokens.dtype).tobytes()
    log_progress = _log_every(5.0)
    for _, encoded in itertools.groupby(_encoded(corpus, tokens, tally), itemgetter(0)):
        size = 0
        label = -1
        for _, label, ids in encoded:  # noqa: B007 - a document has one label
            size += len(ids)
            file.write(ids.tobytes())
            log_progress(
                "%s: %d documents, %d tokens", corpus.name, len(labels), offsets[-1] + size
            )
        if not size:  # a tokenizer may drop a whole text
            tally["empty"] += 1
            continue
        file.write(end)
        labels.append(label)
        offsets.append(offsets[-1] + size + 1)
    if not labels:
        raise UserError(f"{corpus.key}: it holds no text; name another")
    _report(corpus, tally)
    return np.array(offsets, np.int64), np.array(labels, np.int32), tally


def _report(corpus: corpora.Corpus, tally: corpora.Tally) -> None:
    """Logs the encodings, and the number of skipped and replaced items."""
    others = [f"{n} as {name}" for name, n in tally.encodings.most_common() if name != "utf-8"]
    if others:
        log.info("%s: files are read %s", corpus.name, ", ".join(others))
    counted = (
        "%d documents are empty, %d unreadable, %d lines odd (skipped); %d sequences are no %s"
    )
    if tally.total():
        counts = [tally[key] for key in ("empty", "unreadable", "odd", "replaced")]
        name = "/".join(tally.encodings) or "utf-8"
        log.warning("%s: " + counted + " (replaced)", corpus.name, *counts, name.upper())
    if tally.first:
        log.warning("%s: the first odd line is %s line %d: %s", corpus.name, *tally.first[:3])


def _log_every(seconds: float) -> Callable[..., None]:
    """Returns a `log.info` that logs at most once in `seconds`, and not before that time."""
    last = time.monotonic()

    def log_info(*args):
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            log.info(*args)

    return log_info


def _encoded(
    corpus: corpora.Corpus, tokens: Tokenizer, tally: corpora.Tally
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (number of the document, label, ids of a part of it)."""
    batch = []
    size = 0
    limit = _BATCH // tokens.growth
    for piece in corpora.pieces(corpus, tally):
        batch.append(piece)
        size += len(piece[1]) + 1000  # short documents count too
        if size > limit:
            yield from _ids(batch, tokens)
            batch = []
            size = 0
    yield from _ids(batch, tokens)


def _ids(
    batch: list[tuple[int, str, int]], tokens: Tokenizer
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Tokenizes pieces of documents: (number, label, ids) of each."""
    encoded = tokens.encode_batch([text for _, text, _ in batch])
    return ((k, label, ids) for (k, _, label), ids in zip(batch, encoded, strict=True))


def pack(corpus: corpora.Corpus, tokens: Tokenizer, out: str) -> dict[str, int]:
    """Writes a corpus into the new directory `out`, atomically and with little memory.

    Args:
      corpus: the documents.
      tokens: the tokenizer.
      out: the directory to create.

    Returns:
      The number of examples, tokens and bytes, and of damaged, empty, odd and invalid_utf8 items.

    Raises:
      UserError: `out` exists, or the corpus has no text.
    """
    out = os.path.abspath(os.path.expanduser(out))
    with atomic_directory(out) as folder:
        with open(os.path.join(folder, "tokens.npy"), "wb") as file:
            _header(file, 0, tokens.dtype)
            offsets, labels, tally = tokenize(corpus, tokens, file)
            file.seek(0)
            _header(file, int(offsets[-1]), tokens.dtype)
        np.save(os.path.join(folder, "offsets.npy"), offsets, allow_pickle=False)
        if corpus.classes is not None:
            np.save(os.path.join(folder, "label.npy"), labels, allow_pickle=False)
        meta = {"version": VERSION, "name": corpus.name}
        meta |= {"classes": corpus.classes, "tokenizer": tokens.save(folder)}
        meta |= {"fingerprint": tokens.fingerprint, "documents": len(labels)}
        with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as file:
            json.dump(meta | {"tokens": int(offsets[-1])}, file, indent=1)
    counts = {"examples": len(labels), "tokens": int(offsets[-1]), "bytes": folder_bytes(out)}
    names = {"unreadable": "damaged", "empty": "empty", "odd": "odd", "replaced": "invalid_utf8"}
    return counts | {name: tally[key] for key, name in names.items()}


def _header(file: IO[bytes], size: int, dtype: np.dtype) -> None:
    # NumPy pads the header so that the axis may grow: rewriting it never moves the data.
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, fields)


def _sample(corpus: corpora.Corpus) -> Iterator[str]:
    """Yields texts for the training of a tokenizer: all, or every n-th, evenly over the corpus.

    A trainer keeps every distinct word. A text that repeats its words is used as a whole, of any
    length. Of a text that does not (no spaces, or all numbers) only as much as `_WORDS` allows is
    used. The time of the trainer grows with the square of a word's length, so runs of more than
    `_RUN` characters are cut.
    """
    log_progress = _log_every(5.0)
    cost = 0
    size = 0
    seen: set[str] = set()
    for number, text, _ in corpora.pieces(corpus, corpora.Tally()):
        new = set(text.split()) - seen
        cost += sum(map(len, new))
        size += len(text)
        if len(seen) < _SEEN:
            seen |= {word for word in new if len(word) < 64}
        log_progress("%s: %d documents, %d characters", corpus.name, number + 1, size)
    every = max(1, -(-cost // _WORDS))
    if every > 1:
        log.warning(
            "%s: hardly a word occurs twice: of its %d characters, one part in %d is used",
            corpus.name,
            size,
            every,
        )
    for _, text, _ in itertools.islice(corpora.pieces(corpus, corpora.Tally()), 0, None, every):
        if _LONG.search(text):
            yield from (text[start : start + _RUN] for start in range(0, len(text), _RUN))
        else:
            yield text


def train(corpus: corpora.Corpus, size: int, out: str) -> dict[str, int | str]:
    """Trains a BPE tokenizer of `size` ids on a corpus, and writes it to the new file `out`.

    Returns:
      vocab (the number of ids), path and fingerprint.

    Raises:
      UserError: `out` exists or cannot be created, or `size` is too small.
    """
    path = os.path.abspath(os.path.expanduser(out))
    if os.path.lexists(path):
        raise ConfigError("out", out, "it exists", "name a new file, or remove it")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "out", out, f"cannot be made ({error.strerror})", "name another"
        ) from None
    trained = tokenizer.train(_sample(corpus), size)
    trained.save(*os.path.split(path))
    ids = trained.vocab["size"]
    if ids < size:
        log.warning("%s has no more pairs than make %d ids", corpus.name, ids)
    return {"vocab": ids, "path": path, "fingerprint": trained.fingerprint}
