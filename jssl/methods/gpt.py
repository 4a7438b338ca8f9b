"""GPT: "Language Models are Unsupervised Multitask Learners" (Radford, Wu, Child, Luan, Amodei,
Sutskever; 2019), section 2: predict each token from those before it.
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

Documents are joined into rows. A token attends to its own document only, and the end of a document
does not predict the start of the next one. The embedding table also makes the logits.

Reference code: openai/gpt-2 src/model.py; karpathy/nanoGPT. The loss is computed in chunks of
`config.chunk` tokens of a row, so that the logits [tokens, vocabulary] are never in memory as a
whole. `render` continues the first document of each row by sampling at `eval.temperature` from the
`eval.top_k` likeliest tokens, to the end of the row at most.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array

from jssl import nn
from jssl.config import Config, ConfigError
from jssl.config.values import Count
from jssl.core import DatasetInfo, Objective, Vocab
from jssl.losses import next_token, next_token_nll
from jssl.metrics import monitor_from_config
from jssl.nn.apply import apply, init

KEYS = {
    "chunk": Annotated[
        Count, "tokens of a row whose logits are in memory at a time; divides data.seq_len"
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = nn.encoder(config.model, data_info.vocab_size, packed=config.data.pack_documents)
    chunk = config.chunk
    seq_len = config.data.seq_len
    if seq_len % chunk:
        raise ConfigError(
            "config.chunk", chunk, f"must divide --config.data.seq_len={seq_len}", f"try {seq_len}"
        )
    if not encoder.style.causal:
        raise ConfigError(
            "config.model.name",
            config.model.name,
            "attends to the tokens that it predicts",
            "use gpt2",
        )
    vocab = data_info.vocab
    assert vocab is not None, "`nn.encoder` refuses a source without a tokenizer"
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        params, _ = init(encoder, rng, batch["tokens"])
        return {"encoder": params}, {}

    def output_table(params):
        return params["encoder"]["tokens"]["embedding"].astype(encoder.dtype)

    def encode(params, tokens, segment):
        return apply(encoder, params["encoder"], {}, tokens, segment=segment, train=False)[0]

    def loss(params, state, batch, rng):
        tokens = batch["tokens"]
        segment = batch["segment"]
        rngs = {"dropout": rng}
        hidden, _ = apply(
            encoder, params["encoder"], {}, tokens, segment=segment, train=True, rngs=rngs
        )
        value, top1 = next_token(hidden, output_table(params), tokens, segment, chunk)
        metrics = monitor(state.step, encoder.features(hidden, segment))
        return value, (state.buffers, metrics | {"token_top1": top1})

    def embed(params, buffers, batch):
        hidden = encode(params, batch["tokens"], batch["segment"])
        return encoder.features(hidden, batch["segment"])

    def token_nll(params, buffers, batch):
        tokens = batch["tokens"]
        segment = batch["segment"]
        hidden = encode(params, tokens, segment)
        nll, _, follows = next_token_nll(hidden, output_table(params), tokens, segment, chunk)
        return jnp.roll(jnp.where(follows > 0, nll, -1.0), 1, axis=1)  # at the predicted token

    def render(params, buffers, batch, rng):
        def encode_text(text):
            return encode(params, text, None)

        def logits(hidden):
            return hidden @ output_table(params).T

        tokens = batch["tokens"]
        text = generate(config, vocab, rng, tokens, batch["segment"], encode_text, logits)
        return {"generated": text}

    return Objective(init_params, loss, embed, render, token_nll)


def generate(
    config: Config,
    vocab: Vocab,
    rng: Array,
    tokens: Array,
    segment: Array,
    encode_text: Callable[[Array], Array],
    logits: Callable[[Array], Array],
) -> Array:
    """Continues the first document of each row by sampling, int32 [B, L].

    Args:
      config: the whole config; its section `eval` has the settings.
      vocab: the ids of the tokenizer.
      rng: a random key.
      tokens, segment: int32 [B, L], as in a batch.
      encode_text: tokens [B, L] -> hidden states [B, L, D].
      logits: hidden states [B, D] -> logits [B, V].
    """
    size = tokens.shape[1]
    rows = jnp.arange(len(tokens))
    in_prompt = (segment == segment[:, :1]) & (tokens != vocab.end)
    prompt_end = jnp.maximum(in_prompt.sum(1), 1)
    prompt = jnp.where(jnp.arange(size) < prompt_end[:, None], tokens[:, :size], vocab.pad)

    def append(i, text):
        """Adds a token to each row. Attention is causal: padding after a token has no effect."""
        hidden = encode_text(text)
        position = jnp.minimum(prompt_end + i, size - 1)
        next_logits = logits(hidden[rows, position - 1])
        rng_i = jax.random.fold_in(rng, i)
        token = sample(rng_i, next_logits, config.eval.temperature, config.eval.top_k)
        previous = text[rows, position - 1]
        has_ended = (previous == vocab.end) | (previous == vocab.pad)
        token = jnp.where(has_ended, vocab.pad, token)
        has_room = prompt_end + i < size  # a full row does not change
        token = jnp.where(has_room, token, text[rows, position])
        return text.at[rows, position].set(token)

    return jax.lax.fori_loop(0, config.eval.new_tokens, append, prompt)


def sample(rng: Array, logits: Array, temperature: float, top_k: int) -> Array:
    """Samples a token from the `top_k` largest logits of each row, int32 [B]; 0: from all.

    Args:
      rng: a random key.
      logits: [B, V].
      temperature: of the softmax; 0 selects the likeliest token.
      top_k: the number of tokens to choose from.
    """
    logits = logits.astype(jnp.float32) / jnp.maximum(temperature, 1e-6)
    if top_k:
        values, _ = jax.lax.top_k(logits, min(top_k, logits.shape[1]))
        logits = jnp.where(logits < values[:, -1:], -jnp.inf, logits)
    return jax.random.categorical(rng, logits).astype(jnp.int32)
