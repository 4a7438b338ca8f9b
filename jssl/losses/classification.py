"""Cross-entropies: with labels, with distributions of a teacher, and of the next token."""

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import require_arrays


def cross_entropy(logits: Array, answer: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """The cross-entropy of logits with integer labels.

    Args:
      logits: float [N, K].
      answer: int [N], the labels.
      weight: float [N], the weight of each row; None: all rows have the same.

    Returns:
      (loss [], top1 []): the weighted mean of -log softmax(logits)[answer], and the weighted share
      of the rows whose largest logit is at the label.
    """
    require_arrays(
        logits=(logits, "float [N, K]"), answer=(answer, "int [N]"), weight=(weight, "[N]")
    )
    weight = jnp.ones(len(answer)) if weight is None else weight
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    nll = -jnp.take_along_axis(log_p, answer[:, None], axis=1)[:, 0]
    is_correct = log_p.argmax(1) == answer
    total = jnp.maximum(weight.sum(), 1e-9)
    return (nll * weight).sum() / total, (is_correct * weight).sum() / total


def soft_cross_entropy(logits: Array, target: Array) -> Array:
    """-sum target log softmax(logits), mean over the rows, float32 [].

    Source: SwAV (Caron et al. 2020), equation 2; DINO (Caron et al. 2021), equation 2.

    Args:
      logits: float [B, K].
      target: float [B, K], distributions. No gradient flows to them.
    """
    require_arrays(logits=(logits, "float [B, K]"), target=(target, "float [B, K]"))
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(lax.stop_gradient(target).astype(jnp.float32) * log_p).sum(-1).mean()


def cross_view_cross_entropy(logits: Array, local_logits: Array | None, targets: Array) -> Array:
    """DINO's loss, float32 []: the mean cross-entropy of each pair of a teacher's view and another
    crop of the same image.

    Args:
      logits: [2B, K] of the global views; rows 2i and 2i + 1 are views of image i.
      local_logits: [nB, K] of the n local crops of each image, or None.
      targets: [2B, K], the teacher's distributions.
    """
    require_arrays(
        logits=(logits, "float [V, K]"),
        local_logits=(local_logits, "float [L, K]"),
        targets=(targets, "float [V, K]"),
    )
    value = soft_cross_entropy(logits[0::2], targets[1::2])
    value = value + soft_cross_entropy(logits[1::2], targets[0::2])
    if local_logits is None:
        return value / 2
    num_local = 2 * len(local_logits) // len(targets)
    both = jnp.repeat(targets[0::2] + targets[1::2], num_local, axis=0)
    value = value + num_local * soft_cross_entropy(local_logits, both)
    return value / (2 + 2 * num_local)


def next_token(
    hidden: Array, table: Array, tokens: Array, segment: Array, chunk: int
) -> tuple[Array, Array]:
    """The cross-entropy of each token given the tokens before it in its document.

    The arguments are those of `next_token_nll`.

    Returns:
      (loss [], top1 []): the mean of -log p, and the share of the tokens that are the likeliest.
    """
    nll, is_likeliest, weight = next_token_nll(hidden, table, tokens, segment, chunk)
    total = jnp.maximum(weight.sum(), 1)
    return (nll * weight).sum() / total, (is_likeliest * weight).sum() / total


@jax.custom_vjp
def vocab_logits(hidden: Array, table: Array) -> Array:
    """hidden table^T in float32, with a gradient in the dtype of the arguments.

    The gradient of the logits is rounded to that dtype before its two products, as torch's autocast
    does. JAX's own gradient keeps it in float32 and computes both products in float32, at half the
    rate of bfloat16 or less.

    Args:
      hidden: [..., D], the hidden states.
      table: [V, D] in the dtype of `hidden`, the embeddings of the tokens.

    Returns:
      float32 [..., V].
    """
    require_arrays(hidden=(hidden, "float [..., D]"), table=(table, "float [V, D]"))
    return jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)


def _vocab_logits_forward(hidden: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return vocab_logits(hidden, table), (hidden, table)


def _vocab_logits_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    hidden, table = kept
    grad = grad.astype(hidden.dtype)
    (to_hidden,) = jax.linear_transpose(lambda x: jnp.matmul(x, table.T), hidden)(grad)
    (to_table,) = jax.linear_transpose(lambda x: jnp.matmul(hidden, x.T), table)(grad)
    return to_hidden, to_table


vocab_logits.defvjp(_vocab_logits_forward, _vocab_logits_backward)


def next_token_nll(
    hidden: Array, table: Array, tokens: Array, segment: Array, chunk: int
) -> tuple[Array, Array, Array]:
    """-log p of the token that follows each position.

    Logits exist for `chunk` positions of each row at a time. They are computed a second time in the
    backward pass.

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
    require_arrays(
        hidden=(hidden, "float [B, L, D]"),
        table=(table, "float [V, D]"),
        tokens=(tokens, "int [B, L]"),
        segment=(segment, "int [B, L]"),
    )
    chex.assert_is_divisible(
        tokens.shape[1], chunk, custom_message=f"chunk={chunk} must divide L of tokens [B, L]"
    )
    answer = jnp.roll(tokens, -1, axis=1)
    same_document = (jnp.roll(segment, -1, axis=1) == segment) & (segment > 0)

    def split(x):
        return x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def chunk_nll(_, inputs):
        hidden_chunk, answer_chunk = inputs
        logits = vocab_logits(hidden_chunk, table)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        answer_logit = jnp.take_along_axis(logits, answer_chunk[..., None], axis=-1)[..., 0]
        is_likeliest = answer_logit >= lax.stop_gradient(logits.max(-1))
        return None, (log_z - answer_logit, is_likeliest.astype(jnp.float32))

    chunks = jax.tree.map(split, (hidden.astype(table.dtype), answer))
    _, outputs = lax.scan(chunk_nll, None, chunks)
    nll, is_likeliest = (x.swapaxes(0, 1).reshape(tokens.shape) for x in outputs)
    return nll, is_likeliest, same_document.at[:, -1].set(False).astype(jnp.float32)
