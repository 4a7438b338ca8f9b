"""The cross-entropy of the next token, without the logits of a whole batch in memory.

Logits exist for `chunk` positions of each row at a time. The training loss computes their gradient
in the same pass: each gradient is known up to a factor as soon as the logits are, so that no logit
is computed twice. Source: Hsu et al. 2024, Liger Kernel (arXiv:2410.10989, section 3.2,
FusedLinearCrossEntropy); the chunks here are positions of all rows, not rows.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.losses.classification import vocab_logits
from jssl.ops import require_arrays


def next_token(
    hidden: Array, table: Array, tokens: Array, segment: Array, chunk: int
) -> tuple[Array, Array]:
    """The cross-entropy of each token given the tokens before it in its document.

    The arguments are those of `next_token_nll`.

    Returns:
      (loss [], top1 []): the mean of -log p, and the share of the tokens that are the likeliest.
    """
    check(hidden, table, tokens, segment, chunk)
    answer, weight = next_in_document(tokens, segment)
    share = weight / jnp.maximum(weight.sum(), 1)
    return weighted_sums(chunk, hidden.astype(table.dtype), table, answer, share)


def next_token_nll(
    hidden: Array, table: Array, tokens: Array, segment: Array, chunk: int
) -> tuple[Array, Array, Array]:
    """-log p of the token that follows each position.

    Args:
      hidden: [B, L, D], the hidden states.
      table: [V, D] in the compute dtype, the embeddings of the tokens.
      tokens: int32 [B, L].
      segment: int32 [B, L], the number of the document of each token; 0 at padding.
      chunk: a divisor of L.

    Returns:
      (nll, is_likeliest, weight), each float32 [B, L]: -log p of the next token in nats, 1 where it
      is the likeliest, and 1 where it belongs to the same document.
    """
    check(hidden, table, tokens, segment, chunk)
    answer, weight = next_in_document(tokens, segment)

    def chunk_nll(_, inputs):
        hidden_chunk, answer_chunk = inputs
        _, _, nll, is_likeliest = scores(hidden_chunk, answer_chunk, table)
        return None, (nll, is_likeliest)

    chunks = split((hidden.astype(table.dtype), answer), chunk)
    _, (nll, is_likeliest) = lax.scan(chunk_nll, None, chunks)
    return merge(nll), merge(is_likeliest), weight


def check(hidden: Array, table: Array, tokens: Array, segment: Array, chunk: int) -> None:
    """Checks the arguments of `next_token_nll`."""
    require_arrays(
        hidden=(hidden, "float [B, L, D]"),
        table=(table, "float [V, D]"),
        tokens=(tokens, "int [B, L]"),
        segment=(segment, "int [B, L]"),
    )
    chex.assert_is_divisible(
        tokens.shape[1], chunk, custom_message=f"chunk={chunk} must divide L of tokens [B, L]"
    )


def next_in_document(tokens: Array, segment: Array) -> tuple[Array, Array]:
    """The next token, int32 [B, L], and float32 [B, L], 1 where it belongs to the same document."""
    same_document = (jnp.roll(segment, -1, axis=1) == segment) & (segment > 0)
    weight = same_document.at[:, -1].set(False).astype(jnp.float32)
    return jnp.roll(tokens, -1, axis=1), weight


def split(tree: tuple[Array, ...], chunk: int) -> tuple[Array, ...]:
    """[B, L, ...] -> [L / chunk, B, chunk, ...], each array."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1), tree
    )


def merge(x: Array) -> Array:
    """The inverse of `split`, of one array."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def scores(hidden: Array, answer: Array, table: Array) -> tuple[Array, Array, Array, Array]:
    """Returns (logits [B, L, V], log_z, nll and is_likeliest [B, L]), all float32."""
    logits = vocab_logits(hidden, table)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    answer_logit = jnp.take_along_axis(logits, answer[..., None], axis=-1)[..., 0]
    is_likeliest = answer_logit >= logits.max(-1)
    return logits, log_z, log_z - answer_logit, is_likeliest.astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sums(
    chunk: int, hidden: Array, table: Array, answer: Array, weight: Array
) -> tuple[Array, Array]:
    """The sums of weight * nll and of weight * is_likeliest, float32 [].

    A gradient flows from the first sum to `hidden` and `table`.

    Args:
      chunk: a divisor of L.
      hidden: [B, L, D].
      table: [V, D] in the dtype of `hidden`.
      answer: int32 [B, L], the token that each position predicts.
      weight: float32 [B, L].
    """

    return _forward(chunk, hidden, table, answer, weight)[0]


def _forward(chunk, hidden, table, answer, weight):
    """`weighted_sums`, with the gradients of the first sum.

    d nll / d logits = softmax(logits) - one_hot(answer). It is rounded to the dtype of the
    arguments before the two products, as by `vocab_logits`; the gradient of the table is summed in
    float32.
    """

    def add(carry, inputs):
        sums, to_table = carry
        hidden_chunk, answer_chunk, weight_chunk = inputs
        logits, log_z, nll, is_likeliest = scores(hidden_chunk, answer_chunk, table)
        parts = jnp.stack([(nll * weight_chunk).sum(), (is_likeliest * weight_chunk).sum()])
        at_answer = answer_chunk[..., None] == jnp.arange(len(table))
        to_logits = (jnp.exp(logits - log_z[..., None]) - at_answer) * weight_chunk[..., None]
        to_logits = to_logits.astype(hidden.dtype).reshape(-1, len(table))
        rows = hidden_chunk.reshape(len(to_logits), -1)
        to_table += jnp.matmul(to_logits.T, rows, preferred_element_type=jnp.float32)
        return (sums + parts, to_table), (to_logits @ table).reshape(hidden_chunk.shape)

    zeros = (jnp.zeros(2), jnp.zeros(table.shape, jnp.float32))
    (sums, to_table), to_hidden = lax.scan(add, zeros, split((hidden, answer, weight), chunk))
    return (sums[0], sums[1]), (merge(to_hidden), to_table.astype(table.dtype))


def _backward(chunk, gradients, cotangent):
    to_hidden, to_table = gradients
    factor = cotangent[0].astype(to_hidden.dtype)
    return factor * to_hidden, factor * to_table, None, None


weighted_sums.defvjp(_forward, _backward)
