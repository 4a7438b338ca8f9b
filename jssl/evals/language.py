"""What a language model is worth: perplexity on held-out text, and text that a person can judge.

perplexity: exp of the mean of -log p over all tokens that the method's `score` counts; for BERT the
  pseudo-perplexity of Salazar et al. (2020, arXiv 1910.14659, section 2.2). Bits per byte, of these
  tokens' text in UTF-8, compare models of different tokenizers (Gao et al. 2020, The Pile, section
  3.1).
generate, fill-mask: what the method's `render` makes of held-out rows, or of `eval.prompt`.
"""

import logging

import jax
import numpy as np

from jssl.config import UserError, suggest
from jssl.evals.features import Features

log = logging.getLogger("jssl")
SHOWN = {"generate": ("generated",), "fill-mask": ("masked", "filled")}  # keys of `render`
PROTOCOLS = ("perplexity", *SHOWN)


class Subset:
    """`count` rows of a source of text, evenly over it; 0: all."""

    def __init__(self, source, count: int):
        self.source = source
        self.name = source.name
        self.classes = None
        self.modality = source.modality
        self.fingerprint = source.fingerprint
        self.fields = {name: field for name, field in source.fields.items() if name != "label"}
        rows = min(count or len(source), len(source))
        self.rows = np.linspace(0, len(source) - 1, rows).astype(np.int64)

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.rows[index]))

    def __len__(self):
        return len(self.rows)

    def read(self, indices):
        batch = self.source.read(self.rows[indices])
        batch.pop("label", None)
        return batch


def evaluate(run, state, source, protocol: str, say) -> dict:
    """The JSON result of one of `PROTOCOLS` on the source `source`, for the run's state."""
    if source.modality != "text":
        raise UserError(f"--protocol={protocol} is for text, and {source.name} holds images; knn")
    if protocol == "perplexity":
        return perplexity(run, state, Subset(source, run.config.eval.max_rows), say)
    return sample_text(run, state, source, protocol)


def perplexity(run, state, some: Subset, say) -> dict:
    """perplexity, nats_per_token, bits_per_byte, tokens (that are counted), their bytes, rows."""
    if run.method.token_nll is None:
        raise UserError(f"--protocol=perplexity: config.method={run.config.method!r} has no score")
    features = Features(run.method.token_nll, run.mesh, run.config.eval.batch_size)
    read = features.whole(state, some, say(some.name))
    costs = read.features
    some.rows = some.rows[read.rows]
    counted = costs != -1
    tokens = counted.sum()
    nats = costs[counted].sum(dtype=np.float64)
    if not tokens:
        raise UserError(f"--protocol=perplexity: no row of {some.name} has a token to predict")
    per_token = nats / tokens
    size = utf8(some, counted)
    return {
        "perplexity": float(np.exp(per_token)),
        "nats_per_token": float(per_token),
        "bits_per_byte": float(nats / np.log(2) / max(size, 1)),
        "tokens": int(tokens),
        "bytes": size,
        "rows": len(some),
    }


def utf8(some: Subset, counted) -> int:
    """Bytes of the rows' text in UTF-8, of the tokens that are `counted` [N, L]; the end of a
    document is a token without bytes."""
    size = 0
    for first in range(0, len(some), 256):
        rows = np.arange(first, min(first + 256, len(some)))
        for ids, chosen in zip(some.read(rows)["tokens"], counted[rows], strict=True):
            size += len(some.source.tokenizer.decode(ids[chosen]).encode())
    return size


def sample_text(run, state, source, protocol: str) -> dict:
    """{key: [texts]} of the method's `render`, for `eval.prompt` or some held-out rows."""
    config = run.config.eval
    keys = SHOWN[protocol]
    count = run.config.eval.samples
    if config.prompt:  # its masks are filled in one way only
        batch = prompt(source, config.prompt, count if protocol == "generate" else 1)
    else:
        some = Subset(source, count)
        batch = some.read(np.arange(len(some)))
        if protocol == "generate":  # the first half of a row is given
            batch["segment"][:, source.length // 2 :] = 0
    batch.pop("damaged", None)
    given = (batch["segment"] > 0).sum(1).max()
    if protocol == "generate" and given + config.new_tokens > source.length:
        log.warning(
            "config.eval.new_tokens=%d: %d fit behind %d in a row of config.data.seq_len=%d",
            config.new_tokens,
            source.length - given,
            given,
            source.length,
        )
    render = jax.jit(run.method.render) if run.method.render else lambda *given: {}
    made = jax.device_get(render(state, batch, jax.random.key(run.config.seed)))
    if keys[0] not in made:
        other = [name for name, (key, *_) in SHOWN.items() if key in made]
        raise UserError(
            f"--protocol={protocol}: config.method={run.config.method!r} cannot; "
            f"{suggest(protocol, other or ['perplexity'])}"
        )
    texts = {key: [text(source.tokenizer, row) for row in made[key]] for key in keys}
    for i, row in enumerate(zip(*texts.values(), strict=True)):
        for key, words in zip(texts, row, strict=True):
            log.info("%d %s: %s", i + 1, key, words)
    return texts


def text(tokenizer, ids) -> str:
    """The text of a row of ids, masks shown as <mask>."""
    ends = np.flatnonzero(ids == tokenizer.vocab["mask"])
    return "<mask>".join(tokenizer.decode(part) for part in np.split(ids, ends))


def prompt(source, words: str, samples: int) -> dict:
    """A batch of `samples` rows that begin with the text `words`; <mask> is the mask token."""
    vocab = source.vocab
    length = source.length
    encode = getattr(source.tokenizer, "encode", None)
    if encode is None:
        raise UserError(
            f"config.eval.prompt={words!r} needs the tokenizer, which lies with the data, and "
            f"{source.name} is gone; name it with --config.data.tokenizer=FILE"
        )
    parts = words.split("<mask>")
    if len(encode(" a")) == len(encode("a")):  # a space is no token, it is of the word behind it
        parts = [part.removesuffix(" ") for part in parts[:-1]] + parts[-1:]
    parts = [encode(part) for part in parts]
    ids = [i for part in parts for i in (*part, vocab["mask"])][:-1]
    if not 0 < len(ids) <= length - 2:
        raise UserError(
            f"config.eval.prompt={words!r} has {len(ids)} tokens; use 1 to {length - 2}"
        )
    ids = ids if source.pack else [vocab["start"], *ids, vocab["end"]]
    row = np.pad(ids, (0, length - len(ids)), constant_values=vocab["pad"])
    return {
        "tokens": np.tile(row.astype(np.int32), (samples, 1)),
        "segment": np.tile((np.arange(length) < len(ids)).astype(np.int32), (samples, 1)),
        "index": np.arange(samples, dtype=np.int32),
    }
