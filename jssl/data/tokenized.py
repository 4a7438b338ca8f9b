"""From documents to one flat array of tokens, in memory or in a packed directory."""

import array
import collections
import io
import itertools
import json
import logging
import os
import time
from operator import itemgetter

import numpy as np

from jssl.config import UserError
from jssl.data import text, tokenizer
from jssl.data.packed import folder_bytes, fresh
from jssl.data.tokens import VERSION, Tokens

log = logging.getLogger("jssl")
_BATCH = 2**21  # characters that are tokenized at one go, by all cores


def hold(corpus: text.Corpus, tokens, length: int, pack: bool, words: bool = False) -> Tokens:
    """The source over a corpus, tokenized now and kept in memory; `tokens` is a tokenizer."""
    file = io.BytesIO()
    offsets, labels, _ = tokenize(corpus, tokens, file)
    flat = np.frombuffer(file.getbuffer(), tokens.dtype)
    return Tokens(corpus.name, flat, offsets, tokens, length, pack, words, labels, corpus.classes)


def tokenize(corpus: text.Corpus, tokens, file):
    """Writes all tokens to a binary file; returns offsets int64 [D + 1], labels int32 [D], and a
    count of what was passed over. Streams: documents need not fit into memory."""
    offsets, labels, tally = array.array("q", [0]), array.array("i"), collections.Counter()
    end, say = np.array(tokens.vocab["end"], tokens.dtype).tobytes(), _now_and_then(5.0)
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
    passed = "%d documents are empty, %d unreadable (skipped); %d sequences are no UTF-8 (replaced)"
    if tally.total():
        counts = (tally[key] for key in ("empty", "unreadable", "replaced"))
        log.warning("%s: " + passed, corpus.name, *counts)
    return np.array(offsets, np.int64), np.array(labels, np.int32), tally


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
    batch, size = [], 0
    for piece in text.pieces(corpus, tally):
        batch.append(piece)
        size += len(piece[1]) + 1000  # short documents count too
        if size > _BATCH:
            yield from _ids(batch, tokens)
            batch, size = [], 0
    yield from _ids(batch, tokens)


def _ids(batch, tokens):
    encoded = tokens.encode_batch([part for _, part, _ in batch])
    return ((k, label, ids) for (k, _, label), ids in zip(batch, encoded, strict=True))


def pack(corpus: text.Corpus, tokens, out: str) -> dict[str, int]:
    """Writes a corpus into the new directory `out`, whole or not at all, in little memory."""
    out = os.path.abspath(os.path.expanduser(out))
    with fresh(out) as folder:
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
    names = {"unreadable": "damaged", "empty": "empty", "replaced": "invalid_utf8"}
    return found | {name: tally[key] for key, name in names.items()}


def _header(file, size, dtype):
    # NumPy pads the header so that the axis may grow: rewriting it never moves the data.
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, fields)


def _read(corpus):
    say, total = _now_and_then(5.0), 0
    for number, part, _ in text.pieces(corpus, collections.Counter()):
        total += len(part)
        say("%s: %d documents, %d characters", corpus.name, number + 1, total)
        yield part


def train(corpus: text.Corpus, size: int, out: str) -> dict:
    """Trains a BPE of `size` ids on a corpus and writes it to the new file `out`."""
    path = os.path.abspath(os.path.expanduser(out))
    if os.path.lexists(path):
        raise UserError(f"out={out} is wrong because it exists; name a new file, or remove it")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made ({error.strerror}); name another") from None
    made = tokenizer.train(_read(corpus), size)
    made.save(*os.path.split(path))
    found = made.vocab["size"]
    if found < size:
        log.warning("%s has no more pairs than make %d ids", corpus.name, found)
    return {"vocab": found, "path": path, "fingerprint": made.fingerprint}
