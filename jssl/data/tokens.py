"""Rows of tokens: documents, tokenized once, in one flat array that is held or mapped.

The flat array is every document's tokens followed by `end`; `offsets` says where each begins. What
a row holds is worked out when it is read, so that one array serves every length.

A packed directory holds tokens.npy uint16 or uint32 [T], offsets.npy int64 [D + 1], perhaps
label.npy int32 [D], the tokenizer, and meta.json.
"""

import json
import os

import numpy as np

from jssl.config import UserError
from jssl.data import tokenizer as tokenizers
from jssl.data.order import split_rows
from jssl.data.packed import named

VERSION = 1


class Tokens:
    """A source over a flat array of tokens and the offsets [D + 1] of its documents.

    read(indices) gives tokens int32 [n, L], segment int32 [n, L] (0 at padding, else 1, 2, ... for
    the documents of the row), with `words` word int32 [n, L] (0, 1, ... for its words), index and
    damaged int32 [n], and perhaps label int32 [n].

    pack=True    documents joined and cut into rows; only the rest of the last row is padding. One
                 that does not fit goes on in the next row, as that row's segment 1.
    pack=False   a document a row: start, tokens, end; tokens that do not fit are left out (BERT).

    `rows` (int64, or None for all) picks documents. `folder`, if not empty, is where the arrays are
    mapped from: a worker process then maps them again instead of being sent their content.
    """

    def __init__(
        self, name, flat, offsets, tokenizer, length, pack, words=False, labels=None, classes=None,
        rows=None, folder="",
    ):  # fmt: skip
        self.name, self.tokenizer, self.vocab = name, tokenizer, tokenizer.vocab
        self.canvas = (length, 2 + words, 4)  # bytes of a row: as many int32 a token
        self.classes = None if pack else classes
        self._fields = name, flat, offsets, tokenizer, length, pack, words, labels, classes
        self._folder, self._with_words = folder, words
        self._flat, self._labels, self.length, self.pack = flat, labels, length, pack
        self._starts = offsets[:-1] if rows is None else offsets[rows]
        self._ends = offsets[1:] if rows is None else offsets[rows + 1]
        self._rows = rows
        if pack:  # where documents end in the joined ones, and from there to the flat array
            self._stops = self._ends if rows is None else np.cumsum(self._ends - self._starts)
            self._shift = None if rows is None else self._ends - self._stops

    @property
    def documents(self) -> int:
        return len(self._starts)

    def __len__(self):
        return -(-int(self._stops[-1]) // self.length) if self.pack else len(self._starts)

    def describe(self, index: int) -> str:
        return f"{self.name} {'row' if self.pack else 'document'} {index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, np.int64)
        tokens, segment = self._joined(indices) if self.pack else self._alone(indices)
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
            return _mapped, (self._folder, *self._fields[3:7], self._rows)
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
    own = _intact(folder, _tokenizer)
    if tokenizer and tokenizers.load(tokenizer).fingerprint != own.fingerprint:
        raise UserError(
            f"data.tokenizer={tokenizer} is wrong because {folder} was packed with another one; "
            "leave it empty, to use that one, or pack it again"
        )
    whole = _mapped(folder, own, length, pack, words, None)
    return _mapped(folder, own, length, pack, words, split_rows(split, whole.documents))


def _mapped(folder, tokenizer, length, pack, words, rows):
    name, classes, flat, offsets, labels = _intact(folder, _arrays, tokenizer)
    return Tokens(
        name, flat, offsets, tokenizer, length, pack, words, labels, classes, rows, folder
    )


def _intact(folder, read, *given):
    try:
        with open(os.path.join(folder, "meta.json"), encoding="utf-8") as file:
            return read(folder, json.load(file), *given)
    except (OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError) as error:
        raise UserError(
            f"data.path={folder} is wrong because it is no intact packed data set "
            f"({' '.join(str(error).split()) or type(error).__name__}); pack it again"
        ) from error


def _tokenizer(folder, meta):
    if meta["version"] != VERSION:
        raise ValueError(f"version {meta['version']}, and this jssl reads version {VERSION}")
    if meta["tokenizer"] == "bytes":
        own = tokenizers.Bytes()
    else:
        own = tokenizers.read(os.path.join(folder, meta["tokenizer"]))
    if own.fingerprint != meta["fingerprint"]:
        raise ValueError(f"{meta['tokenizer']} is not the tokenizer that it was made with")
    return own


def _arrays(folder, meta, tokenizer):
    name, classes = named(meta)
    names = ("tokens", "offsets") if classes is None else ("tokens", "offsets", "label")
    paths = (os.path.join(folder, name + ".npy") for name in names)
    found = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    count = meta["documents"]
    wanted = [(tokenizer.dtype, meta["tokens"]), (np.int64, count + 1), (np.int32, count)]
    for key, array, (dtype, size) in zip(names, found, wanted, strict=False):
        if (array.dtype, array.shape) != (np.dtype(dtype), (size,)):
            raise ValueError(f"{key}.npy is {array.dtype} {array.shape}, not {dtype} {(size,)}")
    if found[1][0] != 0 or found[1][-1] != meta["tokens"] or count < 1:
        raise ValueError("offsets.npy does not fit tokens.npy")
    return name, classes, found[0], found[1], found[2] if len(found) > 2 else None
