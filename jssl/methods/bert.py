"""BERT: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(Devlin, Chang, Lee, Toutanova; NAACL 2019; arXiv 1810.04805), section 3.1, task 1.

A share of the tokens is chosen: of these .8 become a mask token, .1 a random one, .1 stay. The
encoder must say which token stood at each chosen place. No next-sentence task (RoBERTa, Liu et al.
2019, section 4.2, found that it does not help).

Reference code: google-research/bert run_pretraining.py (get_masked_lm_output: Dense, GELU,
LayerNorm, then the embedding table and a bias). Logits are computed at the chosen places only.
`config.whole_words`: all tokens of a word are chosen together, or none (it needs `data.words`).
`score` is the pseudo-log-likelihood of Salazar et al. (2020, arXiv 1910.14659, equation 1): each
token in turn is masked, and predicted from all others. `render` fills masks.
"""

import flax.linen as linen
import jax
import jax.numpy as jnp

from jssl import metrics, nn
from jssl.config import Config, UserError
from jssl.config.values import Part
from jssl.core import DatasetInfo, Objective
from jssl.losses import cross_entropy
from jssl.nn.apply import apply, init
from jssl.transforms.masking import lowest_k, mask_to_indices

EPS = 1e-12

KEYS = {
    "mask_rate": Part,
    "whole_words": bool,
}


def choose(rng, special, word, rate: float, most: int):
    """(at int32 [B, most], weight [B, most]): the chosen places, in order, and 1 for each of them;
    round(rate * places that are not special [B, L]) of them, at least 1, at most `most`.

    With `word` int32 [B, L], the number of each place's word, whole words are drawn one after
    another; the last one may be cut.
    """
    order = jax.random.uniform(rng, special.shape)
    if word is not None:
        order = jnp.take_along_axis(order, word, axis=1)
    count = jnp.round(rate * (~special).sum(1)).astype(jnp.int32).clip(1, most)
    chosen = lowest_k(jnp.where(special, 2.0, order), count)
    return mask_to_indices(chosen, most), (jnp.arange(most) < count[:, None]).astype(jnp.float32)


def corrupt(rng, tokens, at, weight, mask: int, size: int):
    """tokens [B, L] with .8 of the chosen ones masked, and .1 replaced by any of `size` ids
    (appendix A.1)."""
    rng_what, rng_other = jax.random.split(rng)
    u = jax.random.uniform(rng_what, at.shape)
    other = jax.random.randint(rng_other, at.shape, 0, size)
    here = jnp.take_along_axis(tokens, at, axis=1)
    new = jnp.where(u < 0.8, mask, jnp.where(u < 0.9, other, here))
    new = jnp.where(weight > 0, new, here)
    return jax.vmap(lambda row, i, value: row.at[i].set(value))(tokens, at, new)


def build(config: Config, data_info: DatasetInfo) -> Objective:
    encoder = nn.encoder(config.model, data_info.vocab_size, packed=config.data.pack)
    watch = metrics.watcher(config)
    vocab, rate, words = data_info.vocab, config.mask_rate, config.whole_words
    if not 0 < rate < 1:
        raise UserError(f"config.mask_rate={rate} must be above 0 and below 1; try 0.15")
    most = max(round(rate * config.data.length), 1)
    if words and not config.data.words:
        raise UserError("config.whole_words=True needs config.data.words=True")

    def start(rng, batch):
        rng_f, rng_head = jax.random.split(rng)
        params, _ = init(encoder, rng_f, batch["tokens"])
        width, draw = encoder.dim, linen.initializers.truncated_normal(0.02)
        head = {"kernel": draw(rng_head, (width, width)), "bias": jnp.zeros(width)}
        head |= {"scale": jnp.ones(width), "shift_bias": jnp.zeros(width)}
        return {"encoder": params, "head": head, "token_bias": jnp.zeros(vocab.size)}, {}

    def loss(params, state, batch, rng):
        rng_choose, rng_corrupt, rng_net = jax.random.split(rng, 3)
        tokens, segment = batch["tokens"], batch["segment"]
        special = is_special(tokens, segment)
        word = batch["word"] if words else None
        at, weight = choose(rng_choose, special, word, rate, most)
        seen = corrupt(rng_corrupt, tokens, at, weight, vocab.mask, vocab.size)
        hidden, _ = apply(
            encoder, params["encoder"], {}, seen, segment=segment, train=True,
            rngs={"dropout": rng_net},
        )  # fmt: skip
        there = jnp.take_along_axis(hidden, at[..., None], axis=1).reshape(-1, encoder.dim)
        answer = jnp.take_along_axis(tokens, at, axis=1).reshape(-1)
        value, top1 = cross_entropy(logits(params, there), answer, weight.reshape(-1))
        metrics = watch(state.step, encoder.features(hidden, segment)) | {"token_top1": top1}
        return value, (state.buffers, metrics)

    def is_special(tokens, segment):
        return (tokens == vocab.start) | (tokens == vocab.end) | (segment == 0)

    def see(params, tokens, segment):
        return apply(encoder, params["encoder"], {}, tokens, segment=segment, train=False)[0]

    def logits(params, x):
        """float32 [N, V] of hidden states x [N, D]."""
        head, table = params["head"], params["encoder"]["tokens"]["embedding"]
        x = jax.nn.gelu(x.astype(jnp.float32) @ head["kernel"] + head["bias"], approximate=False)
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(var + EPS) * head["scale"] + head["shift_bias"]
        x, table = (y.astype(encoder.dtype) for y in (x, table))
        return jnp.matmul(x, table.T, preferred_element_type=jnp.float32) + params["token_bias"]

    def embed(params, buffers, batch):
        return encoder.features(see(params, batch["tokens"], batch["segment"]), batch["segment"])

    def token_nll(params, buffers, batch):
        tokens, segment = batch["tokens"], batch["segment"]
        counts = ~is_special(tokens, segment)

        def one(place):
            hidden = see(params, tokens.at[:, place].set(vocab.mask), segment)
            log_p = jax.nn.log_softmax(logits(params, hidden[:, place]))
            return jnp.take_along_axis(log_p, tokens[:, place, None], axis=1)[:, 0]

        log_p = jax.lax.map(one, jnp.arange(tokens.shape[1])).T
        return jnp.where(counts, -log_p, -1.0)

    def render(params, buffers, batch, rng):
        """Rows with masks, filled with the likeliest tokens; rows without get some first."""
        tokens, segment = batch["tokens"], batch["segment"]
        at, weight = choose(rng, is_special(tokens, segment), None, rate, most)
        hide = jax.vmap(lambda row, at, on: row.at[at].set(jnp.where(on, vocab.mask, row[at])))
        given = (tokens == vocab.mask).any(1, keepdims=True)
        masked = jnp.where(given, tokens, hide(tokens, at, weight > 0))
        hidden = see(params, masked, segment)
        guess = jax.lax.map(lambda row: logits(params, row).argmax(1), hidden)
        return {"masked": masked, "filled": jnp.where(masked == vocab.mask, guess, masked)}

    return Objective(start, loss, embed, render, token_nll)
