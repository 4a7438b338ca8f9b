"""Metrics of embeddings, which show whether the features have collapsed.

| metric | healthy | collapsed | source |
|---|---|---|---|
| feature_std | near 1 | 0 | std of unit vectors x sqrt(D): SimSiam (Chen & He 2021), fig. 2 |
| alignment | falls | 0 too, so read it beside uniformity | Wang & Isola 2020 |
| uniformity | near -4 | 0 | Wang & Isola 2020, t = 2 |
| rank | a good part of D | 1 | RankMe (Garrido et al. 2023), equations 1 and 2 |

The first three cost one small product a step; the rank needs eigenvalues and is found every
``log.rank_every`` steps; between them it is `NOT_DUE`, which is not written.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config
from jssl.core import Metrics
from jssl.ops import l2_normalize

OCCASIONAL = ("rank",)  # `NOT_DUE` at a step where it was not due
NOT_DUE = -1.0  # no NaN, which JAX_DEBUG_NANS would take for a fault; no rank is below 0
ROWS = 256  # of the batch that uniformity and rank look at


def feature_std(z):
    """The deviation of each feature of the unit rows of z [N, D], mean over features, times
    sqrt(D): 1 if the rows are spread evenly over the sphere, 0 if they are all the same."""
    return l2_normalize(z).std(0).mean() * z.shape[-1] ** 0.5


def alignment(z_a, z_b):
    """Mean squared distance of the unit vectors of a pair, z_a and z_b [N, D]."""
    return jnp.square(l2_normalize(z_a) - l2_normalize(z_b)).sum(-1).mean()


def uniformity(z):
    """log mean exp(-2 d^2) over the pairs of unit rows of z [N, D], d their distance."""
    z, n = l2_normalize(z), len(z)
    similar = jnp.matmul(z, z.T, precision=lax.Precision.HIGHEST)
    similar = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, 4 * similar - 4)  # d^2 = 2 - 2 cos
    return jax.nn.logsumexp(similar) - jnp.log(n * (n - 1.0))


def rankme(z):
    """exp of the entropy of the singular values of z [N, D], each over their sum: 1 .. min(N, D).

    Singular values by the eigenvalues of the smaller Gram matrix, which every backend compiles
    quickly; what is below its rounding error counts as zero.
    """
    z = z.astype(jnp.float32)
    z = z if z.shape[0] >= z.shape[1] else z.T
    gram = jnp.matmul(z.T, z, precision=lax.Precision.HIGHEST)
    squares = jnp.linalg.eigvalsh(gram)
    noise = len(squares) * jnp.finfo(jnp.float32).eps * squares.max()
    values = jnp.sqrt(jnp.where(squares > noise, squares, 0))
    p = values / jnp.maximum(values.sum(), 1e-12)
    return jnp.exp(-(p * jnp.log(p + 1e-12)).sum())


def monitor_from_config(config: Config) -> Callable[..., Metrics]:
    """(step, z_a [N, D], z_b [N, D] or None) -> the metrics of the table; z_b: the other views."""
    every = config.log.rank_every
    steps = config.steps

    @jax.named_scope("diagnose")
    def monitor(step, z_a, z_b=None):
        z_a = lax.stop_gradient(z_a)
        few = z_a[:ROWS]
        found = {"feature_std": feature_std(z_a), "uniformity": uniformity(few)}
        if z_b is not None:
            found["alignment"] = alignment(z_a, lax.stop_gradient(z_b))
        if every:
            due = ((step + 1) % every == 0) | (step + 1 == steps)
            found["rank"] = lax.cond(due, rankme, lambda z: jnp.float32(NOT_DUE), few)
        return found

    return monitor


def entropy(p):
    """Mean entropy of the rows of p [B, K], and the entropy of their mean, in nats: how sure each
    assignment is, and how evenly all prototypes are used (log K if so)."""

    def log(p):
        return -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1)

    return {"assignment_entropy": log(p).mean(), "usage_entropy": log(p.mean(0))}
