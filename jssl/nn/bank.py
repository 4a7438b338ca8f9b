"""A bank: an embedding and the cluster labels of every example of the data set, by its index."""

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError
from jssl.ops import require_arrays

Bank = dict[str, Array]
ROWS_MULTIPLE = 1024  # so that the rows divide evenly over any usual number of devices


def init_bank(num_examples: int, width: int, views: str, num_heads: int) -> Bank:
    """An empty bank.

    Args:
      num_examples: of the data set.
      width: of an embedding.
      views: one letter for each view whose embeddings are kept.
      num_heads: labels of each example.

    Returns:
      {letter: float32 [rows, width], "seen": float32 [rows], "label": int32 [rows, num_heads]}.
      The number of rows is rounded up to a multiple of `ROWS_MULTIPLE`. A label is -1 as long as an
      example is in no cluster.
    """
    rows = -(-num_examples // ROWS_MULTIPLE) * ROWS_MULTIPLE
    bank = {name: jnp.zeros((rows, width)) for name in views}
    labels = -jnp.ones((rows, num_heads), jnp.int32)
    return bank | {"seen": jnp.zeros(rows), "label": labels}


def write_bank(bank: Bank, index: Array, embeddings: dict[str, Array]) -> Bank:
    """The bank with new embeddings, {view: [B, width]}, of the examples `index` int32 [B]."""
    require_arrays(
        index=(index, "int [B]"),
        **{f"bank[{name!r}]": (bank[name], "float [rows, width]") for name in embeddings},
        **{f"embeddings[{name!r}]": (z, "float [B, width]") for name, z in embeddings.items()},
    )
    new = {name: bank[name].at[index].set(z) for name, z in embeddings.items()}
    return bank | new | {"seen": bank["seen"].at[index].set(1.0)}


def cluster_loss(logits_by_size: dict[str, Array], labels: Array) -> Array:
    """The mean cross-entropy of all crops with the clusters of their images, float32 [].

    Args:
      logits_by_size: {size: logits [B v, K]}; the v crops of an image are adjacent rows.
      labels: int32 [B], the cluster of each image; -1 if it has none, then it does not count.
    """
    total: Array | float = 0.0
    count: Array | float = 0.0
    for size, logits in logits_by_size.items():
        name = f"logits_by_size[{size!r}]"
        require_arrays(labels=(labels, "int [B]"), **{name: (logits, "float [Bv, K]")})
        chex.assert_is_divisible(
            len(logits),
            len(labels),
            custom_message=f"{name} {logits.shape} must have v rows of each label {labels.shape}",
        )
        targets = jnp.repeat(labels, len(logits) // len(labels))
        valid = targets >= 0
        log_p = jax.nn.log_softmax(logits)
        of_target = jnp.take_along_axis(log_p, jnp.maximum(targets, 0)[:, None], axis=1)[:, 0]
        total = total - (of_target * valid).sum()
        count = count + valid.sum()
    return total / jnp.maximum(count, 1)


def cluster_usage(labels: Array, num_clusters: int) -> Array:
    """The share of the batch in each cluster, float32 [K], for labels int32 [B]."""
    require_arrays(labels=(labels, "int [B]"))
    return jnp.bincount(jnp.maximum(labels, 0), length=num_clusters) / len(labels)


def check_clusters(key: str, clusters: int | tuple[int, ...], num_examples: int) -> None:
    """Raises `UserError` if `clusters`, the value of `key`, has a number above `num_examples`."""
    most = max(num_examples // 2, 1)
    if isinstance(clusters, int):
        largest = clusters
        cure = str(most)
    else:
        largest = max(clusters)
        cure = str(tuple(min(k, most) for k in clusters))
    if largest > num_examples:
        raise ConfigError(
            key, clusters, f"must be at most the {num_examples} examples", f"try {cure}"
        )
