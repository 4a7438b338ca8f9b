"""Rows of tokens: documents, tokenized once, in one flat array that is held or mapped.

The flat array is every document's tokens followed by `end`; `offsets` says where each begins. What
a row holds is worked out when it is read, so that one array serves every length.

A packed directory holds tokens.npy uint16 or uint32 [T], offsets.npy int64 [D + 1], perhaps
label.npy int32 [D], the tokenizer, and meta.json.
"""

import functools
import hashlib
import os

import numpy as np

from jssl.config import UserError
from jssl.data.sampling import split_rows, split_span
from jssl.data.source import text_fields
from jssl.data.sources.packed import check_labels, check_version, intact, mapped, named, spans
from jssl.data.text import tokenizer as tokenizers

VERSION = 1
_SAMPLE = 4096  # tokens of each sample that a fingerprint is made of


class Tokens:
    """A source over a flat array of tokens and the offsets [D + 1] of its documents.

    read(indices) gives tokens int32 [n, L], segment int32 [n, L] (0 at padding, else 1, 2, ... for
    the documents of the row), with `words` word int32 [n, L] (0, 1, ... for its words), index and
    damaged int32 [n], and perhaps label int32 [n].

    pack=True    documents joined and cut into rows; only the rest of the last row is padding. One
                 that does not fit goes on in the next row, as that row's segment 1.
    pack=False   a document a row: start, tokens, end; tokens that do not fit are left out (BERT).

    `rows` (int64, or None for all) picks documents. `folder`, if not empty, is where the arrays are
    mapped from: a worker process then maps them again instead of being sent their content. `span`,
    with a folder, is the stretch of tokens that is read of its only document.
    """

    modality = "text"

    def __init__(
        self,
        name,
        flat,
        offsets,
        tokenizer,
        length,
        pack,
        words=False,
        labels=None,
        classes=None,
        rows=None,
        folder="",
        span=None,
    ):
        self.name = name
        self.tokenizer = tokenizer
        self.vocab = tokenizer.vocab
        self.classes = None if pack else classes
        self._fields = name, flat, offsets, tokenizer, length, pack, words, labels, classes
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
        if pack:  # where documents end in the joined ones, and from there to the flat array
            whole = rows is None and self._starts[0] == 0
            self._stops = self._ends if whole else np.cumsum(self._ends - self._starts)
            self._shift = None if whole else self._ends - self._stops

    @property
    def fields(self):
        """See `jssl.data.source.Source`."""
        return text_fields(self.length, self._with_words, self.classes is not None)

    @property
    def documents(self) -> int:
        return len(self._starts)

    def __len__(self):
        return -(-int(self._stops[-1]) // self.length) if self.pack else len(self._starts)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer, of how many tokens which documents have, and of samples of the
        tokens: cheap, and the same wherever the data lies."""
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        total = sum(int(np.sum(self._starts[rows])) for rows in spans(len(self._starts)))
        digest.update(str((len(self._starts), total, int(self._ends[-1]))).encode())
        for first in np.linspace(0, max(0, len(self._flat) - _SAMPLE), 32).astype(np.int64):
            digest.update(np.ascontiguousarray(self._flat[first : first + _SAMPLE]).data)
        return digest.hexdigest()

    def describe(self, index: int) -> str:
        return f"{self.name} {'row' if self.pack else 'document'} {index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, np.int64)
        tokens, segment = self._joined(indices) if self.pack else self._alone(indices)
        if tokens.size and tokens.max() >= self.vocab["size"]:  # of a folder from elsewhere
            raise UserError(
                f"data.path={self._folder} is wrong because tokens.npy has the id {tokens.max()}, "
                f"and its tokenizer knows {self.vocab['size']}; pack it again"
            )
        batch = {
            "tokens": tokens.astype(np.int32),
            "segment": segment.astype(np.int32),
            "index": indices.astype(np.int32),
            "damaged": np.full(len(indices), -1, np.int32),
        }
        batch |= {"word": self._words(tokens)} if self._with_words else {}
        if self.classes is None:
            return batch
        found = indices if self._rows is None else self._rows[indices]
        return batch | {"label": np.asarray(self._labels[found], np.int32)}

    def _words(self, tokens):
        """The number of the word, in its row, of each token."""
        begins = self.tokenizer.begins[tokens]
        begins[:, 1:] |= self.tokenizer.follows[tokens[:, :-1]]
        begins[:, 0] = False
        return np.cumsum(begins, axis=1, dtype=np.int32)

    def _joined(self, indices):
        places = indices[:, None] * self.length + np.arange(self.length)
        real = places < self._stops[-1]
        places = np.minimum(places, self._stops[-1] - 1)
        document = np.searchsorted(self._stops, places, side="right")
        flat = places if self._shift is None else places + self._shift[document]
        tokens = np.where(real, self._flat[flat], self.vocab["pad"])
        return tokens, np.where(real, document - document[:, :1] + 1, 0)

    def _alone(self, indices):
        first = np.asarray(self._starts[indices])[:, None]
        kept = np.asarray(self._ends[indices])[:, None] - 1 - first
        kept = np.minimum(kept, self.length - 2)  # without start and end
        column = np.arange(self.length)
        tokens = self._flat[first + np.clip(column - 1, 0, kept - 1)].astype(np.int32)
        tokens[:, 0] = self.vocab["start"]
        tokens = np.where(column == kept + 1, self.vocab["end"], tokens)
        real = column <= kept + 1
        return np.where(real, tokens, self.vocab["pad"]), real

    def __reduce__(self):
        if self._folder:
            return _mapped, (self._folder, *self._fields[3:7], self._rows, self._span)
        return Tokens, (*self._fields, self._rows)


def is_tokens(folder: str) -> bool:
    """Whether a packed directory holds text, and not images."""
    return os.path.isfile(os.path.join(folder, "tokens.npy"))


def open_tokens(
    folder: str, split: str, tokenizer: str, length: int, pack: bool, words: bool = False
) -> Tokens:
    """The source over a packed directory, with its own tokenizer; slices as in `split_rows`.

    `tokenizer`, if not empty, must name the one it was made with. Raises UserError if it does not,
    or the directory is damaged.
    """
    own = intact(folder, _tokenizer)
    if tokenizer and tokenizers.load(tokenizer).fingerprint != own.fingerprint:
        raise UserError(
            f"data.tokenizer={tokenizer} is wrong because {folder} was packed with another one; "
            "leave it empty, to use that one, or pack it again"
        )
    whole = _mapped(folder, own, length, pack, words, None, None)
    span = split_span(split, whole.documents, int(whole._ends[-1]))
    rows = None if span else split_rows(split, whole.documents)
    return _mapped(folder, own, length, pack, words, rows, span)


def _mapped(folder, tokenizer, length, pack, words, rows, span):
    name, classes, flat, offsets, labels = intact(folder, _arrays, tokenizer)
    if span:
        offsets = np.array(span, np.int64)
    return Tokens(
        name, flat, offsets, tokenizer, length, pack, words, labels, classes, rows, folder, span
    )


def _tokenizer(folder, meta):
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


def _arrays(folder, meta, tokenizer):
    """What a folder of tokens holds. Ids are checked when they are read: there may be billions."""
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
