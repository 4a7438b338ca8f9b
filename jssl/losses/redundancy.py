"""Losses that decorrelate the features of an embedding: Barlow Twins and VICReg."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import require_arrays, standardize
from jssl.parallel.mesh import replicate


def barlow_twins(z_a: Array, z_b: Array, weight: float) -> Array:
    """Barlow Twins' loss (Zbontar et al. 2021, equations 1 and 2), float32 [].

    The features of both views are standardized over the batch. Their cross-correlation should be
    the identity. The loss is the squared deviation of the diagonal plus `weight` times that of the
    other elements. Reference: facebookresearch/barlowtwins main.py (BatchNorm without affine).

    Args:
      z_a, z_b: float [B, D], two views of the same B images.
      weight: the paper's lambda.
    """
    require_arrays(z_a=(z_a, "float [B, D]"), z_b=(z_b, "float [B, D]"))
    a = standardize(z_a)
    b = standardize(z_b)
    diagonal = (a * b).sum(0) / len(z_a)
    others = off_diagonal_squares(a, b) / len(z_a) ** 2
    return jnp.square(diagonal - 1).sum() + weight * others


def off_diagonal_squares(a: Array, b: Array) -> Array:
    """The sum of the squares off the diagonal of a^T b, for a, b [B, D], float32 [].

    For B >= D the diagonal of the [D, D] product is masked before the sum: the sum of all squares
    minus that of the diagonal would be the difference of two large numbers. For B < D, the sum of
    all squares is that of the products of a a^T and b b^T, [B, B] each: on many devices these take
    2 B D numbers from the others, and a^T b takes D^2. The diagonal is then subtracted. The product
    has rank B, so that at most B / D of the squares are on a diagonal of equal elements.
    """
    require_arrays(a=(a, "float [B, D]"), b=(b, "float [B, D]"))
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    size, width = a.shape
    if size >= width:
        squares = jnp.square(product(a.T, b))
        return jnp.where(jnp.eye(width, dtype=bool), 0.0, squares).sum()
    among_a = product(a, replicate(a).T)
    among_b = among_a if b is a else product(b, replicate(b).T)
    return (among_a * among_b).sum() - jnp.square((a * b).sum(0)).sum()


def vicreg(
    z_a: Array, z_b: Array, invariance: float, variance: float, covariance: float
) -> tuple[Array, dict[str, Array]]:
    """VICReg (Bardes, Ponce, LeCun 2022, equations 1 to 6).

    The means and the factors 1/2 are those of the authors' code, facebookresearch/vicreg
    main_vicreg.py.

    Args:
      z_a, z_b: float [B, D], two views of the same B images.
      invariance, variance, covariance: the weights of the three terms.

    Returns:
      (loss [], terms): the terms without their weights, under the names of the weights.
    """
    require_arrays(z_a=(z_a, "float [B, D]"), z_b=(z_b, "float [B, D]"))
    views = [z.astype(jnp.float32) for z in (z_a, z_b)]
    centered = [z - z.mean(0) for z in views]

    def hinge(z):
        return jnp.maximum(0, 1 - jnp.sqrt(z.var(0, ddof=1) + 1e-4)).mean()

    def squared_covariances(z):
        return off_diagonal_squares(z, z) / (len(z) - 1) ** 2

    terms: dict[str, Any] = {
        "invariance": jnp.square(views[0] - views[1]).mean(),
        "variance": sum(hinge(z) for z in views) / 2,
        "covariance": sum(squared_covariances(z) for z in centered) / z_a.shape[1],
    }
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    value: Any = sum(weights[name] * term for name, term in terms.items())
    return value, terms
