"""Contrastive losses: each embedding must find its partner among the embeddings of other images."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import l2_normalize, require_arrays

# A similarity matrix of more elements than this is never in memory as a whole. Its columns are
# computed in chunks, and a second time in the backward pass.
MAX_DENSE_ELEMENTS = 2**28
CHUNK_COLUMNS = 4096
MASKED_LOGIT = -1e30  # finite, so that its gradient is zero and not NaN


def negatives_logsumexp(
    queries: Array, keys: Array, skip: Array, temperature: float
) -> tuple[Array, Array]:
    """Log-sum-exp and maximum over the negative logits of each query.

    Args:
      queries: float32 [N, D], unit rows.
      keys: float32 [M, D], unit rows.
      skip: int32 [N, s], the ids of the keys that are no negatives of each query; -1 is no key.
      temperature: the logits are the inner products divided by it.

    Returns:
      (log-sum-exp [N], largest logit [N]). No gradient flows through the largest logit.
    """
    require_arrays(
        queries=(queries, "float [N, D]"), keys=(keys, "float [M, D]"), skip=(skip, "int [N, s]")
    )
    num_keys = len(keys)

    def masked_logits(keys_chunk, ids):
        logits = jnp.matmul(queries, keys_chunk.T, precision=lax.Precision.HIGHEST) / temperature
        is_masked = (ids[None, :, None] == skip[:, None, :]).any(-1) | (ids >= num_keys)[None]
        logits = jnp.where(is_masked, MASKED_LOGIT, logits)
        return jax.nn.logsumexp(logits, axis=1), lax.stop_gradient(logits.max(axis=1))

    ids = jnp.arange(num_keys)
    if len(queries) * num_keys <= MAX_DENSE_ELEMENTS:
        return masked_logits(keys, ids)
    num_chunks = -(-num_keys // CHUNK_COLUMNS)
    ids = jnp.arange(num_chunks * CHUNK_COLUMNS).reshape(num_chunks, CHUNK_COLUMNS)
    padding = num_chunks * CHUNK_COLUMNS - num_keys
    keys = jnp.pad(keys, ((0, padding), (0, 0))).reshape(num_chunks, CHUNK_COLUMNS, -1)

    @jax.checkpoint
    def merge(carry, chunk):
        total, largest = masked_logits(*chunk)
        return (jnp.logaddexp(carry[0], total), jnp.maximum(carry[1], largest)), None

    empty = jnp.full(len(queries), MASKED_LOGIT)
    return lax.scan(merge, (empty, empty), (keys, ids))[0]


def positive_and_negatives(
    z_a: Array, z_b: Array, temperature: float
) -> tuple[Array, Array, Array]:
    """The logits of NT-Xent over the 2B views of a batch.

    Args:
      z_a, z_b: float [B, D], two views of the same B images, any scale.
      temperature: the logits are the cosines divided by it.

    Returns:
      (logit of the partner [2B], log-sum-exp of the logits of the other 2B - 2 views [2B], top1 [])
      where top1 is the share of the views whose partner is the nearest.
    """
    require_arrays(z_a=(z_a, "float [B, D]"), z_b=(z_b, "float [B, D]"))
    z = l2_normalize(jnp.concatenate([z_a, z_b]))
    index = jnp.arange(len(z))
    partner = (index + len(z_a)) % len(z)
    positive = (z * z[partner]).sum(-1) / temperature
    skip = jnp.stack([index, partner], axis=1)
    negatives, largest = negatives_logsumexp(z, z, skip, temperature)
    return positive, negatives, (positive > largest).mean(dtype=jnp.float32)


def nt_xent(z_a: Array, z_b: Array, temperature: float) -> tuple[Array, Array]:
    """NT-Xent, equation 1 of SimCLR (Chen et al. 2020), over the 2B views of a batch.

    Each view must find its partner among the other 2B - 1 views.

    Args:
      z_a, z_b: float [B, D], two views of the same B images, any scale.
      temperature: of the softmax over the cosines.

    Returns:
      (loss [], top1 []): the mean over the 2B views, and the share of the views whose partner is
      the nearest.
    """
    positive, negatives, top1 = positive_and_negatives(z_a, z_b, temperature)
    return (jnp.logaddexp(positive, negatives) - positive).mean(), top1


def dcl(z_a: Array, z_b: Array, temperature: float, sigma: float = 0.0) -> tuple[Array, Array]:
    """Decoupled contrastive loss (Yeh et al. 2022, equation 6).

    It is NT-Xent without the partner in the denominator.

    Args:
      z_a, z_b, temperature: as in `nt_xent`.
      sigma: above 0, the loss is DCLW, equation 7 of the paper. A pair has the weight
        2 - B softmax(s / sigma), where s is the cosine of the pair, so that distant pairs weigh
        more. No gradient flows to the weight.

    Returns:
      (loss [], top1 []) as in `nt_xent`.
    """
    positive, negatives, top1 = positive_and_negatives(z_a, z_b, temperature)
    weight = 1.0
    if sigma:
        closeness = jax.nn.softmax(positive[: len(z_a)] * temperature / sigma)
        weight = lax.stop_gradient(jnp.tile(2 - len(z_a) * closeness, 2))
    return (negatives - weight * positive).mean(), top1


def info_nce(
    q: Array, k: Array, temperature: float, queue: Array | None = None
) -> tuple[Array, Array]:
    """InfoNCE (van den Oord et al. 2018): query q_i must find its key k_i.

    Args:
      q, k: float [B, D], any scale.
      temperature: of the softmax over the cosines.
      queue: float [N, D], any scale. The negatives are its rows (MoCo, equation 1). None: the
        negatives are the other keys of the batch (MoCo v3, algorithm 1; NNCLR, equation 3).

    Returns:
      (loss [], top1 []): the mean over the queries, and the share of the queries whose key is the
      nearest.
    """
    require_arrays(q=(q, "float [B, D]"), k=(k, "float [B, D]"), queue=(queue, "float [N, D]"))
    q = l2_normalize(q)
    k = l2_normalize(k)
    positive = (q * k).sum(-1) / temperature
    if queue is None:
        own_key = jnp.arange(len(k))[:, None]
        negatives, largest = negatives_logsumexp(q, k, own_key, temperature)
    else:
        queue = l2_normalize(queue)
        no_key = jnp.full((len(q), 1), -1)
        negatives, largest = negatives_logsumexp(q, queue, no_key, temperature)
    value = (jnp.logaddexp(positive, negatives) - positive).mean()
    return value, (positive > largest).mean(dtype=jnp.float32)
