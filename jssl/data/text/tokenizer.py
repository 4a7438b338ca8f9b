"""From text to token ids and back: plain bytes, or a file of Hugging Face's `tokenizers`.

A tokenizer is a plain object that pickles, with

    vocab              {"size", "pad", "start", "end", "mask"}: no text encodes to the last four
    dtype              uint16 where the vocabulary fits, else uint32
    fingerprint        SHA-256 of all that decides its ids
    encode(text)       list of ids, without start and end
    encode_batch(...)  the same of many texts, as arrays
    decode(ids)        the text, without pad, start, end and mask
    word_starts(ids)   bool [..., L]: where a word begins, for whole-word masking
    growth             characters that it may make of one before it splits them
    begins, follows    bool [size]: `word_starts` as two tables, for use on the device: a word
                       begins at `begins` ids, after `follows` ids, and at the first place
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator

import numpy as np

from jssl.config import UserError, suggest
from jssl.data.files import JSON_LIMIT, Damaged, foreign, read_bytes
from jssl.data.text import limits

log = logging.getLogger("jssl")
# The four special tokens, and what they are called elsewhere; the first name is ours.
SPECIAL = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "start": ("<start>", "[CLS]", "<s>", "<bos>", "<|startoftext|>", "<|begin_of_text|>"),
    "end": ("<end>", "[SEP]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}
_BASE = len(SPECIAL)  # the id of byte 0
_BREAKS = "ĊĉčĭĮ"  # \n \t \r \v \f as byte-level BPE spells them


class ByteTokenizer:
    """UTF-8 bytes: id 4 + byte (Xue et al. 2022, "ByT5", with four special ids and not three)."""

    growth = 1

    def __init__(self):
        self.vocab = {"size": _BASE + 256} | {name: k for k, name in enumerate(SPECIAL)}
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

    def decode(self, ids) -> str:
        return bytes(i - _BASE for i in map(int, ids) if i >= _BASE).decode("utf-8", "replace")

    def word_starts(self, ids) -> np.ndarray:
        return _word_starts(self, ids)

    def save(self, folder: str) -> str:
        return "bytes"  # which is all that `load` needs


class HFTokenizer:
    """A tokenizer as Hugging Face's `tokenizers` writes it (tokenizer.json), given as that text.

    Special tokens go by their usual names; those it lacks are added behind its vocabulary. Their
    names in a text are text: no document can forge an end. Dropout is left out: the ids of a text
    are a function of the text. `name` is for messages. `Damaged` if it is no such file, or if
    `distrust.refuse` finds that it could exhaust the memory.
    """

    def __init__(self, definition: str, name: str = "tokenizer.json"):
        import tokenizers

        with foreign(name):
            described = json.loads(definition)
            self.growth = limits.refuse(described)
            self.dropout = described["model"].get("dropout")
            if self.dropout:
                described["model"]["dropout"] = None
                definition = json.dumps(described, ensure_ascii=False)
            made = tokenizers.Tokenizer.from_str(definition)
            made.no_padding()
            made.no_truncation()
            known = made.get_vocab()
            names = [next((n for n in names if n in known), names[0]) for names in SPECIAL.values()]
            self.added = [special for special in names if special not in known]
            made.add_special_tokens(names)
            made.encode_special_tokens = True
            ids = set(made.get_vocab().values())
            if len(ids) < len(made.get_vocab()):  # the library counts: it expects no gaps
                raise ValueError(f"its ids leave no room for {', '.join(self.added)}")
            special = zip(SPECIAL, map(made.token_to_id, names), strict=True)
            self.vocab = {"size": 1 + max(ids)} | dict(special)
            self.dtype = np.dtype(np.uint16 if self.vocab["size"] <= 2**16 else np.uint32)
            self.fingerprint = _sha256([described, self.vocab])
            self.begins, self.follows = _words(made, described["model"], self.vocab)
        self._definition = definition
        self._made = made
        self._name = name

    def encode(self, text: str) -> list[int]:
        with self._border():
            return self._checked(self._made.encode(text, add_special_tokens=False)).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        with self._border():
            found = self._made.encode_batch_fast(texts, add_special_tokens=False)
            return [self._checked(encoding).astype(self.dtype) for encoding in found]

    def decode(self, ids) -> str:
        with self._border():
            return self._made.decode([int(i) for i in ids], skip_special_tokens=True)

    def _checked(self, encoding) -> np.ndarray:
        ids = np.array(encoding.ids, np.int64)
        if ids.size and ids.max() >= self.vocab["size"]:  # such as an unk_id that is no id
            raise ValueError(f"it gives the id {ids.max()} of {self.vocab['size']}")
        return ids

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        """What the library raises or panics with is one line with the name of the tokenizer."""
        try:
            with foreign(self._name):
                yield
        except Damaged as error:
            raise UserError(
                f"data.tokenizer={self._name} cannot take this text ({error.reason}); "
                "use bytes, or a tokenizer that knows all characters"
            ) from error

    def word_starts(self, ids) -> np.ndarray:
        return _word_starts(self, ids)

    def save(self, folder: str, name: str = "tokenizer.json") -> str:
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as file:
            file.write(self._definition)
        return name

    def __reduce__(self):
        return HFTokenizer, (self._definition, self._name)


def load(name: str) -> ByteTokenizer | HFTokenizer:
    """The tokenizer that ``data.tokenizer`` names: "bytes", or the path of a file."""
    if name == "bytes":
        return ByteTokenizer()
    path = os.path.expanduser(name)
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        inside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        beside = [os.path.join(os.path.dirname(path), n) for n in inside if n.endswith(".json")]
        raise UserError(
            f"data.tokenizer={name!r} is no file; {suggest(name, ['bytes', *beside])}; "
            "`jssl data tokenizer` trains one"
        )
    try:
        found = read(path)
    except Damaged as error:
        raise UserError(
            f"data.tokenizer={name} is wrong because it is no file of Hugging Face's tokenizers "
            f"({error.reason}); give its tokenizer.json, or use bytes"
        ) from None
    if found.added:
        log.info("data.tokenizer=%s lacks %s: added", name, ", ".join(found.added))
    if found.dropout:
        log.info("data.tokenizer=%s: its dropout of %s is left out", name, found.dropout)
    return found


def read(path: str | os.PathLike) -> HFTokenizer:
    """The tokenizer in a file of at most `JSON_LIMIT` bytes; `Damaged` if it holds none."""
    with foreign(path):
        return HFTokenizer(read_bytes(path, JSON_LIMIT, follow=True).decode(), os.fspath(path))


def train(texts: Iterable[str], size: int) -> HFTokenizer:
    """A byte-level BPE of at most `size` ids (Sennrich et al. 2016; over bytes as in Radford et al.
    2019), made from pairs that `texts` hold twice; the same texts give the same one."""
    if size < _BASE + 256:
        raise UserError(
            f"--vocab={size} is wrong because 256 bytes and {_BASE} special tokens are in every "
            "vocabulary; use 8192"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[names[0] for names in SPECIAL.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(texts, trainer)
    return HFTokenizer(made.to_str(pretty=True))


def _words(made, model, vocab):
    """The tables `begins` and `follows`, all False in a vocabulary that marks no words."""
    begins = np.zeros(vocab["size"], bool)
    follows = np.zeros(vocab["size"], bool)
    tokens = made.get_vocab()
    ids = np.fromiter(tokens.values(), np.int64, len(tokens))
    prefix = model.get("continuing_subword_prefix")
    suffix = model.get("end_of_word_suffix")
    if model.get("type") == "WordLevel":
        begins[:] = True
    elif prefix:  # BERT: "##" goes on
        begins[:] = True
        begins[ids] = [not token.startswith(prefix) for token in tokens]
    elif suffix:  # GPT, CLIP: "</w>" ends
        follows[ids] = [token.endswith(suffix) for token in tokens]
    else:  # byte-level BPE and SentencePiece: a space begins, and so does what follows a line break
        begins[ids] = [token.startswith(tuple("Ġ▁" + _BREAKS)) for token in tokens]
        follows[ids] = [token.endswith(tuple(_BREAKS)) for token in tokens]
    special = [vocab[name] for name in SPECIAL]
    begins[special] = True
    follows[special] = True
    return begins, follows


def _word_starts(tokenizer, ids):
    ids = np.asarray(ids, np.int64)
    starts = tokenizer.begins[ids]
    starts[..., :1] = True
    starts[..., 1:] |= tokenizer.follows[ids[..., :-1]]
    return starts


def _sha256(definition) -> str:
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
