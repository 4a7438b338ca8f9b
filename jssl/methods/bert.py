"""BERT: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(Devlin, Chang, Lee, Toutanova; NAACL 2019; arXiv 1810.04805), section 3.1, task 1.

A share of the tokens is selected: .8 of them become a mask token, .1 a random one, .1 stay. The
encoder must predict the original token at each selected position. There is no next-sentence task
(RoBERTa, Liu et al. 2019, section 4.2, found that it does not help).

Reference code: google-research/bert run_pretraining.py (get_masked_lm_output: Dense, GELU,
LayerNorm, then the embedding table and a bias). Logits are computed at the selected positions
only. With `config.whole_words`, all tokens of a word are selected together, or none (it needs
`data.word_ids`). `token_nll` is the pseudo-log-likelihood of Salazar et al. (2020, arXiv
1910.14659, equation 1): each token in turn is masked, and predicted from all others. `render` fills
masks.
"""

from functools import partial
from typing import Annotated

import flax.linen as linen
import jax
import jax.numpy as jnp
from jax import Array

from jssl import nn
from jssl.config import Config, ConfigError
from jssl.config.values import Part
from jssl.core import DatasetInfo, Objective, Params, Vocab
from jssl.losses import cross_entropy, vocab_logits
from jssl.metrics import monitor_from_config
from jssl.nn.apply import apply, init
from jssl.transforms.masking import lowest_k, mask_to_indices

LAYER_NORM_EPS = 1e-12

KEYS = {
    "mask_rate": Annotated[Part, "share of the tokens that are selected and predicted"],
    "whole_words": Annotated[bool, "select all tokens of a word or none; needs data.word_ids"],
}


def check_words(config: Config) -> None:
    """Raises `UserError` if whole words are selected and the data has no word numbers."""
    if config.whole_words and not config.data.word_ids:
        raise ConfigError(
            "config.whole_words", True, "needs word numbers", "set --config.data.word_ids=True"
        )


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    check_words(config)
    encoder = nn.encoder(config.model, data_info.vocab_size, packed=config.data.pack_documents)
    vocab = data_info.vocab
    assert vocab is not None, "`nn.encoder` refuses a source without a tokenizer"
    most = max(round(config.mask_rate * config.data.seq_len), 1)
    monitor = monitor_from_config(config)
    logits = partial(token_logits, dtype=encoder.dtype)

    def init_params(rng, batch):
        rng_encoder, rng_head = jax.random.split(rng)
        encoder_params, _ = init(encoder, rng_encoder, batch["tokens"])
        head = init_head(rng_head, encoder.dim)
        params = {"encoder": encoder_params, "head": head}
        return params | {"token_bias": jnp.zeros(vocab.size)}, {}

    def encode(params, tokens, segment):
        return apply(encoder, params["encoder"], {}, tokens, segment=segment, train=False)[0]

    def loss(params, state, batch, rng):
        rng_select, rng_corrupt, rng_net = jax.random.split(rng, 3)
        tokens = batch["tokens"]
        segment = batch["segment"]
        special = is_special(vocab, tokens, segment)
        word = batch["word"] if config.whole_words else None
        index, weight = select(rng_select, special, word, config.mask_rate, most)
        corrupted = corrupt(rng_corrupt, tokens, index, weight, vocab.mask, vocab.size)
        rngs = {"dropout": rng_net}
        hidden, _ = apply(
            encoder, params["encoder"], {}, corrupted, segment=segment, train=True, rngs=rngs
        )
        selected = jnp.take_along_axis(hidden, index[..., None], axis=1).reshape(-1, encoder.dim)
        targets = jnp.take_along_axis(tokens, index, axis=1).reshape(-1)
        value, top1 = cross_entropy(logits(params, selected), targets, weight.reshape(-1))
        metrics = monitor(state.step, encoder.features(hidden, segment)) | {"token_top1": top1}
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        hidden = encode(params, batch["tokens"], batch["segment"])
        return encoder.features(hidden, batch["segment"])

    def token_nll(params, buffers, batch):
        tokens = batch["tokens"]
        segment = batch["segment"]

        def log_p_at(position):
            masked = tokens.at[:, position].set(vocab.mask)
            hidden = encode(params, masked, segment)
            log_p = jax.nn.log_softmax(logits(params, hidden[:, position]))
            return jnp.take_along_axis(log_p, tokens[:, position, None], axis=1)[:, 0]

        log_p = jax.lax.map(log_p_at, jnp.arange(tokens.shape[1])).T
        return jnp.where(is_special(vocab, tokens, segment), -1.0, -log_p)

    def render(params, buffers, batch, rng):
        """Fills masks with the likeliest tokens. Rows without masks are masked first."""
        tokens = batch["tokens"]
        segment = batch["segment"]
        special = is_special(vocab, tokens, segment)
        index, weight = select(rng, special, None, config.mask_rate, most)
        has_masks = (tokens == vocab.mask).any(1, keepdims=True)
        masked = jnp.where(has_masks, tokens, set_masks(tokens, index, weight > 0, vocab.mask))
        hidden = encode(params, masked, segment)
        guess = jax.lax.map(lambda row: logits(params, row).argmax(1), hidden)
        return {"masked": masked, "filled": jnp.where(masked == vocab.mask, guess, masked)}

    return Objective(init_params, loss, embed, render, token_nll)


def init_head(rng: Array, width: int) -> Params:
    """The parameters of Dense, GELU and LayerNorm, which come before the embedding table."""
    kernel = linen.initializers.truncated_normal(0.02)(rng, (width, width))
    zeros = jnp.zeros(width)
    return {"kernel": kernel, "bias": zeros, "scale": jnp.ones(width), "shift_bias": zeros}


def token_logits(params: Params, hidden: Array, dtype: jnp.dtype) -> Array:
    """float32 [N, V] of hidden states [N, D]; the last product is computed in `dtype`."""
    head = params["head"]
    x = hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]
    x = jax.nn.gelu(x, approximate=False)
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPS) * head["scale"] + head["shift_bias"]
    table = params["encoder"]["tokens"]["embedding"].astype(dtype)
    return vocab_logits(x.astype(dtype), table) + params["token_bias"]


def is_special(vocab: Vocab, tokens: Array, segment: Array) -> Array:
    """bool [B, L]: start, end and padding, which are never selected."""
    return (tokens == vocab.start) | (tokens == vocab.end) | (segment == 0)


def select(
    rng: Array, special: Array, word: Array | None, rate: float, most: int
) -> tuple[Array, Array]:
    """(index int32 [B, most], weight [B, most]): the selected positions, in order, and 1 for each.

    A row selects round(rate * positions that are not special [B, L]), at least 1, at most `most`.
    With `word` int32 [B, L], the number of each position's word, whole words are drawn one after
    another; the last one may be cut.
    """
    order = jax.random.uniform(rng, special.shape)
    if word is not None:
        order = jnp.take_along_axis(order, word, axis=1)
    count = jnp.round(rate * (~special).sum(1)).astype(jnp.int32).clip(1, most)
    selected = lowest_k(jnp.where(special, 2.0, order), count)
    weight = (jnp.arange(most) < count[:, None]).astype(jnp.float32)
    return mask_to_indices(selected, most), weight


def corrupt(
    rng: Array, tokens: Array, index: Array, weight: Array, mask_id: int, vocab_size: int
) -> Array:
    """tokens [B, L] with .8 of the selected ones masked, and .1 replaced by any id (appendix
    A.1)."""
    rng_kind, rng_other = jax.random.split(rng)
    u = jax.random.uniform(rng_kind, index.shape)
    other = jax.random.randint(rng_other, index.shape, 0, vocab_size)
    original = jnp.take_along_axis(tokens, index, axis=1)
    new = jnp.where(u < 0.8, mask_id, jnp.where(u < 0.9, other, original))
    new = jnp.where(weight > 0, new, original)
    return jax.vmap(lambda row, i, value: row.at[i].set(value))(tokens, index, new)


def set_masks(tokens: Array, index: Array, is_selected: Array, mask_id: int) -> Array:
    """tokens [B, L] with the mask token at the selected positions."""

    def in_row(row, i, selected):
        return row.at[i].set(jnp.where(selected, mask_id, row[i]))

    return jax.vmap(in_row)(tokens, index, is_selected)
