"""Converts text to token ids and back: plain bytes, or a file of Hugging Face's `tokenizers`."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jssl.config import ConfigError, suggest
from jssl.data.files import JSON_LIMIT, Damaged, foreign, read_bytes
from jssl.data.text import limits

log = logging.getLogger("jssl")
# The four special tokens, and their names in other tokenizers; the first name is ours.
SPECIAL = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "start": ("<start>", "[CLS]", "<s>", "<bos>", "<|startoftext|>", "<|begin_of_text|>"),
    "end": ("<end>", "[SEP]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}
_BASE = len(SPECIAL)  # the id of byte 0
_BREAKS = "ĊĉčĭĮ"  # \n \t \r \v \f in byte-level BPE


class Tokenizer(Protocol):
    """Converts text to token ids and back. A tokenizer can be pickled.

    Attributes:
      vocab: {"size", "pad", "start", "end", "mask"}: the number of ids, and the ids of four special
        tokens, to which no text encodes.
      dtype: uint16 if the vocabulary fits, else uint32.
      fingerprint: SHA-256 of everything that decides the ids.
      growth: largest number of characters that it makes of one before it splits them.
      begins: bool [size], see `follows`.
      follows: bool [size]. `begins` and `follows` are `word_starts` as two tables, for the device:
        a word begins at the ids of `begins`, after the ids of `follows`, and at the first position.
    """

    vocab: dict[str, int]
    dtype: np.dtype
    fingerprint: str
    growth: int
    begins: np.ndarray
    follows: np.ndarray

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without start and end."""
        ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Returns the ids of many texts, as arrays of `dtype`."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, without pad, start, end and mask."""
        ...

    def word_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns where a word begins, for whole-word masking: ids [..., L] -> bool [..., L]."""
        ...

    def save(self, folder: str) -> str:
        """Writes the tokenizer into a folder; returns the name of the file, or "bytes"."""
        ...


class ByteTokenizer:
    """UTF-8 bytes: id 4 + byte (Xue et al. 2022, "ByT5"; here four special ids, there three).

    See `Tokenizer`.
    """

    growth: int = 1

    def __init__(self) -> None:
        self.vocab: dict[str, int] = {"size": _BASE + 256} | {
            name: k for k, name in enumerate(SPECIAL)
        }
        self.dtype = np.dtype(np.uint16)
        self.fingerprint = _sha256(["bytes", self.vocab])
        self.follows = np.zeros(_BASE + 256, bool)
        self.follows[[*range(_BASE), *(_BASE + byte for byte in b" \t\n\r\v\f")]] = True
        self.begins = np.arange(_BASE + 256) < _BASE

    def encode(self, text: str) -> list[int]:
        return [_BASE + byte for byte in text.encode()]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        shift = self.dtype.type(_BASE)
        return [np.frombuffer(text.encode(), np.uint8).astype(self.dtype) + shift for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i - _BASE for i in map(int, ids) if i >= _BASE).decode("utf-8", "replace")

    def word_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return _word_starts(self, ids)

    def save(self, folder: str) -> str:
        return "bytes"  # `load` needs only this name


class HFTokenizer:
    """A tokenizer of Hugging Face's `tokenizers`; see `Tokenizer`.

    Special tokens have their usual names; missing ones are added after its vocabulary. Their names
    inside a text are plain text: no document can fake an end. Dropout is disabled: the ids are a
    function of the text.

    Attributes:
      added: the special tokens that were added.
      dropout: the disabled dropout; None or 0 if there was none.
    """

    growth: int

    def __init__(self, definition: str, name: str = "tokenizer.json"):
        """Reads a tokenizer.

        Args:
          definition: the content of a tokenizer.json.
          name: name of the tokenizer, for messages.

        Raises:
          Damaged: `definition` is not a tokenizer, or could exhaust the memory (`limits.refuse`).
        """
        with foreign(name):
            content = json.loads(definition)
            self.growth = limits.refuse(content)
            self.dropout = content["model"].get("dropout")
            if self.dropout:
                content["model"]["dropout"] = None
                definition = json.dumps(content, ensure_ascii=False)
            self._tokenizer, self.added, ids = _with_special_tokens(definition)
            self.vocab: dict[str, int] = {"size": 1 + max(self._tokenizer.get_vocab().values())}
            self.vocab |= ids
            self.dtype = np.dtype(np.uint16 if self.vocab["size"] <= 2**16 else np.uint32)
            self.fingerprint = _sha256([content, self.vocab])
            self.begins, self.follows = _words(self._tokenizer, content["model"], self.vocab)
        self._definition = definition
        self._name = name

    def encode(self, text: str) -> list[int]:
        with self._border():
            return self._checked(self._tokenizer.encode(text, add_special_tokens=False)).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        with self._border():
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [self._checked(encoding).astype(self.dtype) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        with self._border():
            return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def _checked(self, encoding: Any) -> np.ndarray:
        ids = np.array(encoding.ids, np.int64)
        if ids.size and ids.max() >= self.vocab["size"]:  # such as an unk_id that is not an id
            raise ValueError(f"it gives the id {ids.max()} of {self.vocab['size']}")
        return ids

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        """Converts errors and panics of the library to one line with the name of the tokenizer."""
        try:
            with foreign(self._name):
                yield
        except Damaged as error:
            raise ConfigError(
                "config.data.tokenizer",
                self._name,
                f"cannot take this text ({error.reason})",
                "use bytes, or a tokenizer that knows all characters",
            ) from error

    def word_starts(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return _word_starts(self, ids)

    def save(self, folder: str, name: str = "tokenizer.json") -> str:
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as file:
            file.write(self._definition)
        return name

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return HFTokenizer, (self._definition, self._name)


def load(name: str) -> ByteTokenizer | HFTokenizer:
    """Returns the tokenizer that ``data.tokenizer`` names: "bytes", or the path of a file.

    Raises:
      UserError: there is no such file, or it is not a tokenizer.
    """
    if name == "bytes":
        return ByteTokenizer()
    path = os.path.expanduser(name)
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        inside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        siblings = [os.path.join(os.path.dirname(path), n) for n in inside if n.endswith(".json")]
        raise ConfigError(
            "config.data.tokenizer",
            name,
            f"no file; {suggest(name, ['bytes', *siblings])}",
            "`jssl data tokenizer` trains one",
        )
    try:
        tokenizer = read(path)
    except Damaged as error:
        raise ConfigError(
            "config.data.tokenizer",
            name,
            f"it is no file of Hugging Face's tokenizers ({error.reason})",
            "give its tokenizer.json, or use bytes",
        ) from None
    if tokenizer.added:
        log.info("--config.data.tokenizer=%s lacks %s: added", name, ", ".join(tokenizer.added))
    if tokenizer.dropout:
        log.info("--config.data.tokenizer=%s: its dropout %s is left out", name, tokenizer.dropout)
    return tokenizer


def read(path: str | os.PathLike) -> HFTokenizer:
    """Returns the tokenizer in a file of at most `JSON_LIMIT` bytes; `Damaged` if there is none."""
    with foreign(path):
        return HFTokenizer(read_bytes(path, JSON_LIMIT, follow=True).decode(), os.fspath(path))


def train(texts: Iterable[str], size: int) -> HFTokenizer:
    """Trains a byte-level BPE of at most `size` ids.

    It merges pairs that occur at least twice (Sennrich et al. 2016; over bytes as in Radford et al.
    2019). The same texts give the same tokenizer.

    Args:
      texts: the training texts.
      size: largest number of ids.

    Raises:
      UserError: `size` is smaller than the number of bytes and special tokens.
    """
    if size < _BASE + 256:
        raise ConfigError(
            "vocab",
            size,
            f"256 bytes and {_BASE} special tokens are in every vocabulary",
            "use 8192",
        )
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer: Any = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[names[0] for names in SPECIAL.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HFTokenizer(tokenizer.to_str(pretty=True))


def _with_special_tokens(definition: str) -> tuple[Any, list[str], dict[str, int]]:
    """Makes a tokenizer of the library that has all special tokens.

    Returns:
      The tokenizer, the names of the special tokens that were added, and {special token: id}.
    """
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(definition)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    existing = tokenizer.get_vocab()
    names = [next((n for n in names if n in existing), names[0]) for names in SPECIAL.values()]
    added = [special for special in names if special not in existing]
    tokenizer.add_special_tokens(names)
    tokenizer.encode_special_tokens = True
    vocab = tokenizer.get_vocab()
    if len(set(vocab.values())) < len(vocab):  # the library counts tokens, and expects no gaps
        raise ValueError(f"its ids leave no room for {', '.join(added)}")
    ids: Any = zip(SPECIAL, map(tokenizer.token_to_id, names), strict=True)
    return tokenizer, added, dict(ids)


def _words(
    tokenizer: Any, model: dict[str, Any], vocab: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tables `begins` and `follows`, all False if the vocabulary marks no words."""
    begins = np.zeros(vocab["size"], bool)
    follows = np.zeros(vocab["size"], bool)
    tokens = tokenizer.get_vocab()
    ids = np.fromiter(tokens.values(), np.int64, len(tokens))
    prefix = model.get("continuing_subword_prefix")
    suffix = model.get("end_of_word_suffix")
    if model.get("type") == "WordLevel":
        begins[:] = True
    elif prefix:  # BERT: "##" continues a word
        begins[:] = True
        begins[ids] = [not token.startswith(prefix) for token in tokens]
    elif suffix:  # GPT, CLIP: "</w>" ends a word
        follows[ids] = [token.endswith(suffix) for token in tokens]
    else:  # byte-level BPE and SentencePiece: a word begins at a space or after a line break
        begins[ids] = [token.startswith(tuple("Ġ▁" + _BREAKS)) for token in tokens]
        follows[ids] = [token.endswith(tuple(_BREAKS)) for token in tokens]
    special = [vocab[name] for name in SPECIAL]
    begins[special] = True
    follows[special] = True
    return begins, follows


def _word_starts(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    starts = tokenizer.begins[ids]
    starts[..., :1] = True
    starts[..., 1:] |= tokenizer.follows[ids[..., :-1]]
    return starts


def _sha256(definition: Any) -> str:
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
