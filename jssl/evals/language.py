"""Evaluations of language models: perplexity on held-out text, and sampled text for people to read.

perplexity: exp of the mean of -log p over all tokens that the method's `token_nll` counts; for BERT
  the pseudo-perplexity of Salazar et al. (2020, arXiv 1910.14659, section 2.2). Bits per byte of
  the UTF-8 text of these tokens compare models of different tokenizers (Gao et al. 2020, The Pile,
  section 3.1).
generate, fill-mask: the output of the method's `render` for held-out rows, or for `eval.prompt`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jssl.config import ConfigError, UserError, suggest
from jssl.core import Modality, TrainState
from jssl.data.source import Batch, Source, TextSource
from jssl.evals.features import Features

if TYPE_CHECKING:
    from jssl.training.setup import Run

log = logging.getLogger("jssl")
SHOWN = {"generate": ("generated",), "fill-mask": ("masked", "filled")}  # keys of `render`
PROTOCOLS = ("perplexity", *SHOWN)


class Subset:
    """A number of rows of a source of text, evenly spaced, without labels."""

    modality: Modality

    def __init__(self, source: TextSource, count: int):
        """Selects `count` rows of `source`; 0: all."""
        self.source = source
        self.name = source.name
        self.classes = None
        self.modality = source.modality
        self.fingerprint = source.fingerprint
        self.fields = {name: field for name, field in source.fields.items() if name != "label"}
        rows = min(count or len(source), len(source))
        self.rows = np.linspace(0, len(source) - 1, rows).astype(np.int64)

    def describe(self, index: int) -> str:
        """Returns the row or the document of an example, for messages."""
        return self.source.describe(int(self.rows[index]))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the selected rows at `indices`, without labels."""
        batch = self.source.read(self.rows[indices])
        batch.pop("label", None)
        return batch


def evaluate(
    run: Run,
    state: TrainState,
    source: Source,
    protocol: str,
    say: Callable[[str], Callable[..., None]],
) -> dict[str, Any]:
    """Returns the JSON result of a protocol for a state.

    Args:
      run: the run.
      state: its state.
      source: a source of text.
      protocol: one of `PROTOCOLS`.
      say: say(what) makes a progress(done, total).

    Raises:
      UserError: the source is not text, or the method does not have this protocol.
    """
    if source.modality != "text":
        raise ConfigError(
            "protocol", protocol, f"for text, and {source.name} holds images", "use knn"
        )
    text_source: Any = source
    if protocol == "perplexity":
        return perplexity(run, state, Subset(text_source, run.config.eval.max_rows), say)
    return sample_text(run, state, text_source, protocol)


def perplexity(
    run: Run,
    state: TrainState,
    subset: Subset,
    say: Callable[[str], Callable[..., None]],
) -> dict[str, Any]:
    """Returns perplexity, nats_per_token, bits_per_byte, counted tokens, their bytes, and rows.

    Args:
      run: the run.
      state: its state.
      subset: the rows to evaluate. Unreadable rows are removed from it.
      say: say(what) makes a progress(done, total).

    Raises:
      UserError: the method has no `token_nll`, or no token is counted.
    """
    if run.method.token_nll is None:
        raise UserError(f"--protocol=perplexity: config.method={run.config.method!r} has no score")
    features = Features(run.method.token_nll, run.mesh, run.config.eval.batch_size)
    embedded = features.whole(state, subset, say(subset.name))
    token_nlls = embedded.features
    subset.rows = subset.rows[embedded.rows]
    counted = token_nlls != -1
    tokens = counted.sum()
    nats = token_nlls[counted].sum(dtype=np.float64)
    if not tokens:
        raise UserError(f"--protocol=perplexity: no row of {subset.name} has a token to predict")
    per_token = nats / tokens
    size = utf8(subset, counted)
    return {
        "perplexity": float(np.exp(per_token)),
        "nats_per_token": float(per_token),
        "bits_per_byte": float(nats / np.log(2) / max(size, 1)),
        "tokens": int(tokens),
        "bytes": size,
        "rows": len(subset),
    }


def utf8(subset: Subset, counted: np.ndarray) -> int:
    """Returns the bytes in UTF-8 of the text of the tokens that are counted.

    The end of a document is a token without bytes.

    Args:
      subset: N rows.
      counted: bool [N, L], the tokens that count.
    """
    size = 0
    for first in range(0, len(subset), 256):
        rows = np.arange(first, min(first + 256, len(subset)))
        for ids, is_counted in zip(subset.read(rows)["tokens"], counted[rows], strict=True):
            size += len(subset.source.tokenizer.decode(ids[is_counted]).encode())
    return size


def sample_text(
    run: Run, state: TrainState, source: TextSource, protocol: str
) -> dict[str, list[str]]:
    """Returns {key: texts} of the method's `render`, for `eval.prompt` or for held-out rows.

    Args:
      run: the run.
      state: its state.
      source: a source of text.
      protocol: "generate" or "fill-mask".

    Raises:
      UserError: the method cannot do this, or the prompt is too long.
    """
    config = run.config.eval
    keys = SHOWN[protocol]
    count = run.config.eval.samples
    if config.prompt:  # there is only one way to fill its masks
        batch = prompt(source, config.prompt, count if protocol == "generate" else 1)
    else:
        subset = Subset(source, count)
        batch = subset.read(np.arange(len(subset)))
        if protocol == "generate":  # the first half of a row is the prompt
            batch["segment"][:, source.length // 2 :] = 0
    batch.pop("damaged", None)
    prompt_length = (batch["segment"] > 0).sum(1).max()
    if protocol == "generate" and prompt_length + config.new_tokens > source.length:
        log.warning(
            "--config.eval.new_tokens=%d: %d fit behind %d in a row of --config.data.seq_len=%d",
            config.new_tokens,
            source.length - prompt_length,
            prompt_length,
            source.length,
        )
    rendered = {}
    if run.method.render:
        render = jax.jit(run.method.render)
        rendered = jax.device_get(render(state, batch, jax.random.key(run.config.seed)))
    if keys[0] not in rendered:
        other = [name for name, (key, *_) in SHOWN.items() if key in rendered]
        raise ConfigError(
            "protocol",
            protocol,
            f"config.method={run.config.method!r} cannot do it",
            suggest(protocol, other or ["perplexity"]),
        )
    texts = {key: [text(source.tokenizer, row) for row in rendered[key]] for key in keys}
    for i, row in enumerate(zip(*texts.values(), strict=True)):
        for key, words in zip(texts, row, strict=True):
            log.info("%d %s: %s", i + 1, key, words)
    return texts


def text(tokenizer: Any, ids: np.ndarray) -> str:
    """Returns the text of a row of ids [L]; a mask is shown as <mask>."""
    masks = np.flatnonzero(ids == tokenizer.vocab["mask"])
    return "<mask>".join(tokenizer.decode(segment) for segment in np.split(ids, masks))


def prompt(source: TextSource, words: str, samples: int) -> Batch:
    """Returns a batch of rows that begin with a prompt.

    Args:
      source: the source, for its tokenizer and its row length.
      words: the prompt; <mask> is the mask token.
      samples: number of rows.

    Raises:
      UserError: the prompt is empty or too long, or the tokenizer is absent.
    """
    vocab = source.vocab
    length = source.length
    encode = getattr(source.tokenizer, "encode", None)
    if encode is None:
        raise ConfigError(
            "config.eval.prompt",
            words,
            f"needs the tokenizer, which lies with the data, and {source.name} is gone",
            "name it with --config.data.tokenizer=FILE",
        )
    texts = words.split("<mask>")
    if len(encode(" a")) == len(encode("a")):  # a space belongs to the token of the next word
        texts = [text.removesuffix(" ") for text in texts[:-1]] + texts[-1:]
    ids = [i for text in texts for i in (*encode(text), vocab["mask"])][:-1]
    if not 0 < len(ids) <= length - 2:
        raise ConfigError(
            "config.eval.prompt", words, f"has {len(ids)} tokens", f"use 1 to {length - 2}"
        )
    ids = ids if source.pack else [vocab["start"], *ids, vocab["end"]]
    row = np.pad(ids, (0, length - len(ids)), constant_values=vocab["pad"])
    return {
        "tokens": np.tile(row.astype(np.int32), (samples, 1)),
        "segment": np.tile((np.arange(length) < len(ids)).astype(np.int32), (samples, 1)),
        "index": np.arange(samples, dtype=np.int32),
    }
