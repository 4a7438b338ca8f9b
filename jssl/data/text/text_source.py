"""Rows of tokens: documents that are tokenized once, in one flat array in memory or on disk.

The flat array holds the tokens of every document, each followed by `end`; `offsets` holds where
each document begins. The content of a row is computed when it is read, so that one array serves
every row length.

A packed directory holds tokens.npy uint16 or uint32 [T], offsets.npy int64 [D + 1], perhaps
label.npy int32 [D], the tokenizer, and meta.json.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from jssl.config import ConfigError
from jssl.data.sampling import split_rows, split_span
from jssl.data.source import Batch, text_fields
from jssl.data.sources.packed import check_labels, check_version, intact, mapped, named, spans
from jssl.data.text import tokenizer as tokenizers
from jssl.data.text.segments import segments
from jssl.data.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import Modality

VERSION = 1
_SAMPLE = 4096  # tokens of each sample that is hashed


class Tokens:
    """A source of rows of tokens.

    `read` returns tokens int32 [n, L], segment int32 [n, L] (0 at padding, else 1, 2, ... for the
    documents of the row), with `words` word int32 [n, L] (0, 1, ... for the words of the row),
    index and damaged int32 [n], and perhaps label int32 [n].

    Attributes:
      tokenizer: the tokenizer.
      vocab: its vocabulary.
      length: tokens of a row, L.
      pack: whether documents are joined.
    """

    modality: Modality = "text"

    def __init__(
        self,
        name: str,
        flat: np.ndarray,
        offsets: np.ndarray,
        tokenizer: Tokenizer,
        length: int,
        pack: bool,
        words: bool = False,
        labels: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
        folder: str = "",
        span: tuple[int, int] | None = None,
    ):
        """Describes the source.

        Args:
          name: name of the data set, for messages.
          flat: uint16 or uint32 [T], the tokens of all documents.
          offsets: int64 [D + 1], where each document begins in `flat`.
          tokenizer: the tokenizer of the tokens.
          length: tokens of a row.
          pack: if True, documents are joined and cut into rows, and only the rest of the last row
            is padding. A document that does not fit continues in the next row, as segment 1 of that
            row. If False, a row holds one document: start, tokens, end. Tokens that do not fit are
            left out (BERT).
          words: whether rows hold the word number of each token.
          labels: int32 [D], or None.
          classes: class names by number, or None.
          rows: int64, the documents of a split; None for all.
          folder: the folder from which the arrays are mapped, or "". A worker process maps the
            files of the folder again, so that their content is not sent to it.
          span: with a folder, the range of tokens of its only document that is read.
        """
        self.name = name
        self._fingerprint: str | None = None
        self.tokenizer = tokenizer
        self.vocab = tokenizer.vocab
        self.classes = None if pack else classes
        self._fields = (name, flat, offsets, tokenizer, length, pack, words, labels, classes)
        self._folder = folder
        self._with_words = words
        self._span = span
        self._flat = flat
        self._labels = labels
        self.length = length
        self.pack = pack
        self._starts = offsets[:-1] if rows is None else offsets[rows]
        self._ends = offsets[1:] if rows is None else offsets[rows + 1]
        self._rows = rows
        if pack:  # the end of each document in the joined text, and the shift to the flat array
            whole = rows is None and self._starts[0] == 0
            self._stops = self._ends if whole else np.cumsum(self._ends - self._starts)
            self._shift = None if whole else self._ends - self._stops

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        return text_fields(self.length, self._with_words, self.classes is not None)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self._starts)

    def __len__(self) -> int:
        return -(-int(self._stops[-1]) // self.length) if self.pack else len(self._starts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer, of the sizes of the documents and of samples of the tokens.

        It is cheap, and does not depend on the folder of the data.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        """Computes `fingerprint`."""
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        total = sum(int(np.sum(self._starts[rows])) for rows in spans(len(self._starts)))
        digest.update(str((len(self._starts), total, int(self._ends[-1]))).encode())
        for first in np.linspace(0, max(0, len(self._flat) - _SAMPLE), 32).astype(np.int64):
            digest.update(np.ascontiguousarray(self._flat[first : first + _SAMPLE]).data)
        return digest.hexdigest()

    def describe(self, index: int) -> str:
        """Returns the number of a row or a document, for messages."""
        return f"{self.name} {'row' if self.pack else 'document'} {index}"

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the rows at `indices`; see the class for keys and shapes.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        indices = np.asarray(indices, np.int64)
        tokens, segment = self._joined(indices) if self.pack else self._alone(indices)
        # A packed folder may come from anybody.
        if tokens.size and tokens.max() >= self.vocab["size"]:
            raise ConfigError(
                "config.data.path",
                self._folder,
                f"tokens.npy has the id {tokens.max()}, and its tokenizer knows "
                f"{self.vocab['size']}",
                "pack it again",
            )
        batch = {
            "tokens": tokens.astype(np.int32, copy=False),
            "segment": segment.astype(np.int32, copy=False),
            "index": indices.astype(np.int32),
            "damaged": np.full(len(indices), -1, np.int32),
        }
        if self._with_words:
            batch["word"] = self._words(tokens)
        if self.classes is None:
            return batch
        assert self._labels is not None, "classes come with labels"
        documents = indices if self._rows is None else self._rows[indices]
        return batch | {"label": np.asarray(self._labels[documents], np.int32)}

    def _words(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the number of the word, in its row, of each token: int32 [n, L]."""
        begins = self.tokenizer.begins[tokens]
        begins[:, 1:] |= self.tokenizer.follows[tokens[:, :-1]]
        begins[:, 0] = False
        return np.cumsum(begins, axis=1, dtype=np.int32)

    def _joined(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tokens, segment) [n, L] of rows of joined documents."""
        starts = indices * self.length
        first, segment = segments(self._stops, starts, self.length)
        total = self._stops[-1]
        if self._shift is None and starts.max(initial=0) + self.length <= total:
            return sliding_window_view(self._flat, self.length)[starts], segment
        positions = starts[:, None] + np.arange(self.length)
        real = positions < total
        flat = np.minimum(positions, total - 1)
        if self._shift is not None:
            document = first[:, None] + segment - 1
            flat = flat + self._shift[np.minimum(document, len(self._stops) - 1)]
        tokens = np.where(real, self._flat[flat], self.vocab["pad"])
        return tokens, np.where(real, segment, 0)

    def _alone(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tokens, segment) [n, L] of rows of one document each."""
        first = np.asarray(self._starts[indices])[:, None]
        kept = np.asarray(self._ends[indices])[:, None] - 1 - first
        kept = np.minimum(kept, self.length - 2)  # without start and end
        column = np.arange(self.length)
        tokens = self._flat[first + np.clip(column - 1, 0, kept - 1)].astype(np.int32)
        tokens[:, 0] = self.vocab["start"]
        tokens = np.where(column == kept + 1, self.vocab["end"], tokens)
        real = column <= kept + 1
        return np.where(real, tokens, self.vocab["pad"]), real

    def __reduce__(self) -> tuple[Callable[..., Tokens], tuple]:
        if self._folder:
            return _mapped, (self._folder, *self._fields[3:7], self._rows, self._span)
        return Tokens, (*self._fields, self._rows)


def is_tokens(folder: str) -> bool:
    """Returns whether a packed directory holds text, and not images."""
    return os.path.isfile(os.path.join(folder, "tokens.npy"))


def open_tokens(
    folder: str, split: str, tokenizer: str, length: int, pack: bool, words: bool = False
) -> Tokens:
    """Opens a packed directory of text, with its own tokenizer.

    Args:
      folder: the directory.
      split: the split; slices as in `split_rows`.
      tokenizer: "", or the tokenizer with which the directory was packed.
      length, pack, words: see `Tokens`.

    Raises:
      UserError: `tokenizer` is another one, or the directory is damaged.
    """
    own = intact(folder, _tokenizer)
    if tokenizer and tokenizers.load(tokenizer).fingerprint != own.fingerprint:
        raise ConfigError(
            "config.data.tokenizer",
            tokenizer,
            f"{folder} was packed with another one",
            "leave it empty, to use that one, or pack it again",
        )
    whole = _mapped(folder, own, length, pack, words, None, None)
    span = split_span(split, whole.documents, int(whole._ends[-1]))
    rows = None if span else split_rows(split, whole.documents)
    return _mapped(folder, own, length, pack, words, rows, span)


def _mapped(
    folder: str,
    tokenizer: Tokenizer,
    length: int,
    pack: bool,
    words: bool,
    rows: np.ndarray | None,
    span: tuple[int, int] | None,
) -> Tokens:
    """Maps the arrays of a packed directory."""
    name, classes, flat, offsets, labels = intact(folder, _arrays, tokenizer)
    if span:
        offsets = np.array(span, np.int64)
    return Tokens(
        name, flat, offsets, tokenizer, length, pack, words, labels, classes, rows, folder, span
    )


def _tokenizer(folder: str, meta: dict[str, Any]) -> Tokenizer:
    """Reads the tokenizer of a packed directory; ValueError if it is not the right one."""
    check_version(meta, VERSION)
    if meta["tokenizer"] == "bytes":
        own = tokenizers.ByteTokenizer()
    elif os.path.basename(meta["tokenizer"]) != meta["tokenizer"]:
        raise ValueError(f"its tokenizer {meta['tokenizer']} lies elsewhere")
    else:
        own = tokenizers.read(os.path.join(folder, meta["tokenizer"]))
    if own.fingerprint != meta["fingerprint"]:
        raise ValueError(f"{meta['tokenizer']} is not the tokenizer that it was made with")
    return own


def _arrays(folder: str, meta: dict[str, Any], tokenizer: Tokenizer) -> tuple:
    """Returns (name, classes, flat, offsets, labels) of a folder; ValueError if damaged.

    Ids are checked when they are read, because there may be billions.
    """
    name, classes = named(meta)
    documents = meta["documents"]
    total = meta["tokens"]
    flat = mapped(folder, "tokens", tokenizer.dtype, (total,))
    offsets = mapped(folder, "offsets", np.int64, (documents + 1,))
    if documents < 1 or offsets[0] != 0 or offsets[-1] != total:
        raise ValueError("offsets.npy does not fit tokens.npy")
    for rows in spans(documents):
        if np.diff(offsets[rows.start : rows.stop + 1]).min() < 1:
            raise ValueError("offsets.npy does not ascend")
    labels = None if classes is None else mapped(folder, "label", np.int32, (documents,))
    check_labels(labels, classes)
    return name, classes, flat, offsets, labels
