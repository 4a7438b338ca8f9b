"""Losses on the distribution of the embeddings of a batch: KoLeo and SIGReg."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import l2_normalize, require_arrays


def koleo(x: Array, eps: float = 1e-8) -> Array:
    """-log of the distance from each row to the nearest other row, on the unit sphere; mean over
    the rows, float32 []. It spreads the rows out.

    Source: Sablayrolles et al. 2019, equation 2; DINOv2, Oquab et al. 2024.

    Args:
      x: float [N, D], any scale.
      eps: is added to the distance, as in the DINOv2 code.
    """
    require_arrays(x=(x, "float [N, D]"))
    x = l2_normalize(x)
    similarity = jnp.matmul(x, x.T, precision=lax.Precision.HIGHEST)
    is_self = jnp.eye(len(x), dtype=bool)
    nearest = jnp.where(is_self, -2.0, lax.stop_gradient(similarity)).argmax(1)
    square = jnp.square(x - x[nearest]).sum(-1)
    # A square root has no finite gradient at 0, so the square gets an offset too.
    return -jnp.log(jnp.sqrt(square + eps**2) + eps).mean()


def sigreg(rng: Array, z: Array, slices: int) -> Array:
    """SIGReg of LeJEPA (Balestriero & LeCun 2025, algorithm 1), float32 []: the distance of the
    embeddings of each view from a standard Gaussian, mean over the views.

    Args:
      rng: a random key, for the directions.
      z: float [V, B, D], the embeddings of V views.
      slices: the number of random directions on which the embeddings are projected.
    """
    require_arrays(z=(z, "float [V, B, D]"))
    directions = l2_normalize(jax.random.normal(rng, (slices, z.shape[-1]))).T

    def statistic(x):
        return epps_pulley(jnp.matmul(x, directions, precision=lax.Precision.HIGHEST)).mean()

    # One view at a time, and again in the backward pass: [V, B, slices, knots] is never in memory.
    return lax.map(jax.checkpoint(statistic), z.astype(jnp.float32)).mean()


def epps_pulley(x: Array, knots: int = 17, end: float = 3.0) -> Array:
    """The Epps-Pulley statistic of each column, float32 [..., M].

    It is B times the squared distance of the empirical characteristic function from exp(-t^2 / 2),
    weighted by exp(-t^2 / 2), over -end <= t <= end. By symmetry it is twice the integral over
    0 <= t, computed by the trapezoidal rule (LeJEPA, equation 7, and its code).

    Args:
      x: float [..., B, M], B samples of M variables.
      knots: the number of points of the trapezoidal rule.
      end: the largest t.
    """
    require_arrays(x=(x, "float [..., B, M]"))
    t = jnp.linspace(0, end, knots)
    gaussian = jnp.exp(-jnp.square(t) / 2)
    angle = x.astype(jnp.float32)[..., None] * t
    error = jnp.square(jnp.cos(angle).mean(-3) - gaussian) + jnp.square(jnp.sin(angle).mean(-3))
    return x.shape[-2] * 2 * jnp.trapezoid(error * gaussian, t, axis=-1)
