"""Metrics of embeddings, which show whether the features have collapsed.

| metric | healthy | collapsed | source |
|---|---|---|---|
| feature_std | near 1 | 0 | std of unit vectors x sqrt(D): SimSiam (Chen & He 2021), fig. 2 |
| alignment | falls | 0 too, so read it beside uniformity | Wang & Isola 2020 |
| uniformity | near -4 | 0 | Wang & Isola 2020, t = 2 |
| rank | a good part of D | 1 | RankMe (Garrido et al. 2023), equations 1 and 2 |

The first three cost one small product per step. The rank needs eigenvalues and is computed every
``log.rank_every`` steps. At all other steps it is `NOT_DUE`, which is not logged.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.core import Metrics
from jssl.ops import l2_normalize, require_arrays

OCCASIONAL = ("rank",)  # metrics that are `NOT_DUE` at most steps
NOT_DUE = -1.0  # no NaN, which JAX_DEBUG_NANS would report as an error; no rank is below 0
ROWS = 256  # the rows of a batch of which uniformity and rank are computed


def feature_std(z: Array) -> Array:
    """The standard deviation of each feature of the unit rows of z [N, D], mean over the features,
    times sqrt(D); float32 [].

    It is 1 if the rows are spread evenly over the sphere, and 0 if all rows are equal.
    """
    return l2_normalize(z).std(0).mean() * z.shape[-1] ** 0.5


def alignment(z_a: Array, z_b: Array) -> Array:
    """Mean squared distance of the unit vectors of a pair, z_a and z_b [N, D]; float32 []."""
    require_arrays(z_a=(z_a, "float [N, D]"), z_b=(z_b, "float [N, D]"))
    return jnp.square(l2_normalize(z_a) - l2_normalize(z_b)).sum(-1).mean()


def uniformity(z: Array) -> Array:
    """log mean exp(-2 d^2) over the pairs of unit rows of z [N, D] at distance d; float32 []."""
    z = l2_normalize(z)
    n = len(z)
    similarity = jnp.matmul(z, z.T, precision=lax.Precision.HIGHEST)
    is_self = jnp.eye(n, dtype=bool)
    exponent = jnp.where(is_self, -jnp.inf, 4 * similarity - 4)  # d^2 = 2 - 2 cos
    return jax.nn.logsumexp(exponent) - jnp.log(n * (n - 1.0))


def rankme(z: Array) -> Array:
    """exp of the entropy of the normalized singular values of z [N, D], float32 []: 1 to min(N, D).

    The singular values are roots of the eigenvalues of the smaller Gram matrix, which every backend
    compiles quickly. Eigenvalues below the rounding error of the Gram matrix count as zero.
    """
    z = z.astype(jnp.float32)
    z = z if z.shape[0] >= z.shape[1] else z.T
    gram = jnp.matmul(z.T, z, precision=lax.Precision.HIGHEST)
    squares = jnp.linalg.eigvalsh(gram)
    noise = len(squares) * jnp.finfo(jnp.float32).eps * squares.max()
    values = jnp.sqrt(jnp.where(squares > noise, squares, 0))
    p = values / jnp.maximum(values.sum(), 1e-12)
    return jnp.exp(-(p * jnp.log(p + 1e-12)).sum())


def psnr(images: Array, targets: Array, mask: Array | None = None) -> Array:
    """Peak signal-to-noise ratio, -10 log10(squared error) in dB, mean over images; float32 [].

    Args:
      images: float [B, H, W, C], pixels; they are clipped to 0..1.
      targets: float [B, H, W, C], pixels in 0..1.
      mask: bool [B, H, W] or None; only where it is True counts. It is True somewhere.

    An error of 0 counts as 1e-10, which is 100 dB.
    """
    require_arrays(
        images=(images, "float [B, H, W, C]"),
        targets=(targets, "float [B, H, W, C]"),
        mask=(mask, "bool [B, H, W]"),
    )
    error = jnp.square(images.astype(jnp.float32).clip(0, 1) - targets).mean(-1)
    weight = jnp.ones(error.shape) if mask is None else mask.astype(jnp.float32)
    mse = (error * weight).sum((1, 2)) / jnp.maximum(weight.sum((1, 2)), 1)
    return -10 * jnp.log10(jnp.maximum(mse, 1e-10)).mean()


def monitor_from_config(config: Config) -> Callable[..., Metrics]:
    """``monitor(step, z_a, z_b=None)``, which computes the metrics of the table.

    Its arguments are the step, int32 [], the embeddings [N, D] of one view of each example, and
    those of another view. Without `z_b` there is no "alignment". No gradient flows to the
    embeddings.
    """
    every = config.log.rank_every
    steps = config.steps

    @jax.named_scope("diagnose")
    def monitor(step: Array, z_a: Array, z_b: Array | None = None) -> Metrics:
        z_a = lax.stop_gradient(z_a)
        rows = z_a[:ROWS]
        metrics = {"feature_std": feature_std(z_a), "uniformity": uniformity(rows)}
        if z_b is not None:
            metrics["alignment"] = alignment(z_a, lax.stop_gradient(z_b))
        if every:
            is_due = ((step + 1) % every == 0) | (step + 1 == steps)
            metrics["rank"] = lax.cond(is_due, rankme, lambda z: jnp.float32(NOT_DUE), rows)
        return metrics

    return monitor


def entropy(p: Array) -> Metrics:
    """Two entropies, in nats, of distributions p [B, K].

    "assignment_entropy" is the mean entropy of the rows: low if each assignment is certain.
    "usage_entropy" is the entropy of the mean row: log K if all prototypes are used equally.
    """

    def row_entropy(p):
        return -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)

    return {
        "assignment_entropy": row_entropy(p).mean(),
        "usage_entropy": row_entropy(p.mean(0)),
    }


def perplexity(ids: Array, num_codes: int) -> Array:
    """exp of the entropy of how often each code occurs in ids int32 [...], float32 []."""
    share = jnp.bincount(ids.ravel(), length=num_codes) / ids.size
    return jnp.exp(jax.scipy.special.entr(share).sum())
