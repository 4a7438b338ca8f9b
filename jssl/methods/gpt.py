"""GPT: "Language Models are Unsupervised Multitask Learners" (Radford, Wu, Child, Luan, Amodei,
Sutskever; 2019), section 2: predict each token from those before it.

Documents are joined into rows; a token sees its own document only, and no document's end predicts
the next one's start. The table of embeddings also makes the logits.

Reference code: openai/gpt-2 src/model.py; karpathy/nanoGPT. The loss is computed in runs of
`config.chunk` tokens a row, so that the logits [tokens, vocabulary] are never held at once.
`render` goes on from the first document of each row, by sampling at `eval.temperature` among the
`eval.top_k` likeliest tokens, to the end of the row at most.
"""

import jax
import jax.numpy as jnp

from jssl import metrics, nn
from jssl.config import Config, UserError
from jssl.config.values import Count
from jssl.core import DatasetInfo, Objective
from jssl.losses import next_token, next_token_nll
from jssl.nn.apply import apply, init

KEYS = {
    "chunk": Count,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    encoder = nn.encoder(config.model, data_info.vocab_size, packed=config.data.pack)
    watch = metrics.watcher(config)
    chunk, length, vocab = config.chunk, config.data.length, data_info.vocab
    if chunk < 1 or length % chunk:
        raise UserError(f"config.chunk={chunk} must divide config.data.length={length}")
    if not encoder.style.causal:
        raise UserError(f"config.model.name={config.model.name!r} sees what it predicts; use gpt2")

    def start(rng, batch):
        params, _ = init(encoder, rng, batch["tokens"])
        return {"encoder": params}, {}

    def loss(params, state, batch, rng):
        tokens, segment = batch["tokens"], batch["segment"]
        hidden, _ = apply(
            encoder, params["encoder"], {}, tokens, segment=segment, train=True,
            rngs={"dropout": rng},
        )  # fmt: skip
        table = params["encoder"]["tokens"]["embedding"].astype(encoder.dtype)
        value, top1 = next_token(hidden, table, tokens, segment, chunk)
        metrics = watch(state.step, encoder.features(hidden, segment))
        return value, (state.buffers, metrics | {"token_top1": top1})

    def see(params, tokens, segment):
        """(hidden states, the table that makes logits of them)."""
        f = params["encoder"]
        hidden, _ = apply(encoder, f, {}, tokens, segment=segment, train=False)
        return hidden, f["tokens"]["embedding"].astype(encoder.dtype)

    def embed(params, buffers, batch):
        hidden, _ = see(params, batch["tokens"], batch["segment"])
        return encoder.features(hidden, batch["segment"])

    def token_nll(params, buffers, batch):
        tokens, segment = batch["tokens"], batch["segment"]
        seen = see(params, tokens, segment)
        cost, _, follows = next_token_nll(*seen, tokens, segment, chunk)
        return jnp.roll(jnp.where(follows > 0, cost, -1.0), 1, axis=1)  # at the token it is of

    def render(params, buffers, batch, rng):
        tokens, segment, new = batch["tokens"], batch["segment"], config.eval.new_tokens
        own = (segment == segment[:, :1]) & (tokens != vocab.end)
        begin = jnp.maximum(own.sum(1), 1)  # the prompt ends here
        size = tokens.shape[1]
        rows = jnp.arange(len(tokens))
        text = jnp.where(jnp.arange(size) < begin[:, None], tokens[:, :size], vocab.pad)

        def write(i, text):
            """One more token of each row; attention is causal: nothing sees what is behind it."""
            hidden, table = see(params, text, None)
            at = jnp.minimum(begin + i, size - 1)  # a full row stays as it is
            token = sample(jax.random.fold_in(rng, i), hidden[rows, at - 1] @ table.T)
            before = text[rows, at - 1]
            ended = (before == vocab.end) | (before == vocab.pad)
            token = jnp.where(ended, vocab.pad, token)
            token = jnp.where(begin + i < size, token, text[rows, at])
            return text.at[rows, at].set(token)

        return {"generated": jax.lax.fori_loop(0, new, write, text)}

    def sample(rng, logits):
        """int32 [B]: one of the `eval.top_k` likeliest of logits [B, V]."""
        logits = logits.astype(jnp.float32) / jnp.maximum(config.eval.temperature, 1e-6)
        if config.eval.top_k:
            least = jax.lax.top_k(logits, min(config.eval.top_k, logits.shape[1]))[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return jax.random.categorical(rng, logits).astype(jnp.int32)

    return Objective(start, loss, embed, render, token_nll)
