"""From documents to one flat array of tokens, in memory or in a packed directory."""

import array
import io
import itertools
import json
import logging
import os
import re
import time
from operator import itemgetter

import numpy as np

from jssl.config import UserError
from jssl.data.sources.packed import atomic_directory, folder_bytes
from jssl.data.text import corpora, tokenizer
from jssl.data.text.text_source import VERSION, Tokens

log = logging.getLogger("jssl")
_BATCH = 2**21  # characters that are tokenized at one go, by all cores
_WORDS = 2**24  # characters of distinct words that a tokenizer is trained on
_SEEN = 2**19  # words that are known to be distinct
_RUN = 1000  # characters without a space, or spaces, that a tokenizer is trained on at one go
_LONG = re.compile(rf"\S{{{_RUN + 1}}}|\s{{{_RUN + 1}}}")


def load_in_memory(
    corpus: corpora.Corpus, tokens, length: int, pack: bool, words: bool = False
) -> Tokens:
    """The source over a corpus, tokenized now and kept in memory; `tokens` is a tokenizer."""
    file = io.BytesIO()
    offsets, labels, _ = tokenize(corpus, tokens, file)
    flat = np.frombuffer(file.getbuffer(), tokens.dtype)
    return Tokens(corpus.name, flat, offsets, tokens, length, pack, words, labels, corpus.classes)


def tokenize(corpus: corpora.Corpus, tokens, file):
    """Writes all tokens to a binary file; returns offsets int64 [D + 1], labels int32 [D], and a
    count of what was passed over. Streams: documents need not fit into memory."""
    offsets = array.array("q", [0])
    labels = array.array("i")
    tally = corpora.Tally()
    end = np.array(tokens.vocab["end"], tokens.dtype).tobytes()
    say = _now_and_then(5.0)
    for _, parts in itertools.groupby(_encoded(corpus, tokens, tally), itemgetter(0)):
        size = 0
        for _, label, ids in parts:  # noqa: B007 - a document has one label
            size += len(ids)
            file.write(ids.tobytes())
            say("%s: %d documents, %d tokens", corpus.name, len(labels), offsets[-1] + size)
        if not size:  # a tokenizer may drop all of a text
            tally["empty"] += 1
            continue
        file.write(end)
        labels.append(label)
        offsets.append(offsets[-1] + size + 1)
    if not labels:
        raise UserError(f"{corpus.key} is wrong because it holds no text; name another")
    _report(corpus, tally)
    return np.array(offsets, np.int64), np.array(labels, np.int32), tally


def _report(corpus, tally):
    """Says which encodings there were, and what was passed over or mended."""
    others = [f"{n} as {name}" for name, n in tally.encodings.most_common() if name != "utf-8"]
    if others:
        log.info("%s: files are read %s", corpus.name, ", ".join(others))
    passed = "%d documents are empty, %d unreadable, %d lines odd (skipped); %d sequences are no %s"
    if tally.total():
        counts = [tally[key] for key in ("empty", "unreadable", "odd", "replaced")]
        name = "/".join(tally.encodings) or "utf-8"
        log.warning("%s: " + passed + " (replaced)", corpus.name, *counts, name.upper())
    if tally.first:
        log.warning("%s: the first odd line is %s: %s", corpus.name, *tally.first[:2])


def _now_and_then(seconds):
    """`log.info` that is silent most of the time: what is quick shows nothing."""
    last = time.monotonic()

    def say(*words):
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            log.info(*words)

    return say


def _encoded(corpus, tokens, tally):
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


def _ids(batch, tokens):
    encoded = tokens.encode_batch([part for _, part, _ in batch])
    return ((k, label, ids) for (k, _, label), ids in zip(batch, encoded, strict=True))


def pack(corpus: corpora.Corpus, tokens, out: str) -> dict[str, int]:
    """Writes a corpus into the new directory `out`, whole or not at all, in little memory."""
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
    found = {"examples": len(labels), "tokens": int(offsets[-1]), "bytes": folder_bytes(out)}
    names = {"unreadable": "damaged", "empty": "empty", "odd": "odd", "replaced": "invalid_utf8"}
    return found | {name: tally[key] for key, name in names.items()}


def _header(file, size, dtype):
    # NumPy pads the header so that the axis may grow: rewriting it never moves the data.
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, fields)


def _sample(corpus):
    """Texts for training a tokenizer: all, or every n-th, evenly over the whole corpus.

    A trainer keeps every distinct word. Text that repeats its words is used as a whole, however
    long; of text that does not (no spaces, or all numbers) only as much as `_WORDS` allows. Its
    time grows with the square of a word's length, so runs of more than `_RUN` characters are cut.
    """
    say = _now_and_then(5.0)
    cost = 0
    size = 0
    seen = set()
    for number, part, _ in corpora.pieces(corpus, corpora.Tally()):
        new = set(part.split()) - seen
        cost += sum(map(len, new))
        size += len(part)
        if len(seen) < _SEEN:
            seen |= {word for word in new if len(word) < 64}
        say("%s: %d documents, %d characters", corpus.name, number + 1, size)
    every = max(1, -(-cost // _WORDS))
    if every > 1:
        log.warning(
            "%s: hardly a word occurs twice: of its %d characters, one part in %d is used",
            corpus.name,
            size,
            every,
        )
    for _, part, _ in itertools.islice(corpora.pieces(corpus, corpora.Tally()), 0, None, every):
        if _LONG.search(part):
            yield from (part[at : at + _RUN] for at in range(0, len(part), _RUN))
        else:
            yield part


def train(corpus: corpora.Corpus, size: int, out: str) -> dict:
    """Trains a BPE of `size` ids on a corpus and writes it to the new file `out`."""
    path = os.path.abspath(os.path.expanduser(out))
    if os.path.lexists(path):
        raise UserError(f"out={out} is wrong because it exists; name a new file, or remove it")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made ({error.strerror}); name another") from None
    made = tokenizer.train(_sample(corpus), size)
    made.save(*os.path.split(path))
    found = made.vocab["size"]
    if found < size:
        log.warning("%s has no more pairs than make %d ids", corpus.name, found)
    return {"vocab": found, "path": path, "fingerprint": made.fingerprint}
