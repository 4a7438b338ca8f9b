"""Cross-entropies with labels and with distributions of a teacher; logits of a vocabulary."""

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
    rows = hidden.reshape(
        -1, hidden.shape[-1]
    )  # on a CPU the gradients of a 2-D product are faster
    logits = jnp.matmul(rows, table.T, preferred_element_type=jnp.float32)
    return logits.reshape(*hidden.shape[:-1], len(table))


def _vocab_logits_forward(hidden: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return vocab_logits(hidden, table), (hidden, table)


def _vocab_logits_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    hidden, table = kept
    rows = hidden.reshape(-1, hidden.shape[-1])
    grad = grad.astype(hidden.dtype).reshape(-1, len(table))
    return (grad @ table).reshape(hidden.shape), grad.T @ rows


vocab_logits.defvjp(_vocab_logits_forward, _vocab_logits_backward)
