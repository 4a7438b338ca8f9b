"""Losses as plain functions of global batches, float32 inside, no state."""

import jax.numpy as jnp
import optax
from jax import lax

from jssl.ops import unit


def nt_xent(z_a, z_b, temperature: float):
    """NT-Xent, equation 1 of SimCLR (Chen et al. 2020), over the 2B views of a batch.

    z_a, z_b: [B, D], two views of the same B images, any scale. Each view must find its partner
    among the other 2B - 1. Returns (loss [], accuracy []): the mean over 2B views, and the share
    whose partner is the nearest.
    """
    z = unit(jnp.concatenate([z_a, z_b]))
    n = len(z)
    logits = jnp.matmul(z, z.T, precision=lax.Precision.HIGHEST) / temperature
    logits = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, logits)  # a view is not its own partner
    partner = (jnp.arange(n) + n // 2) % n
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, partner).mean()
    return loss, (logits.argmax(1) == partner).mean(dtype=jnp.float32)


def masked_mse(prediction, target, mask):
    """Mean squared error over the masked places only: MAE (He et al. 2022), section 3.

    prediction, target: [B, N, P]; mask: [B, N], 1 where the patch was hidden.
    """
    error = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (error * mask).sum() / mask.sum()


def regression(p, z):
    """2 - 2 cos(p, z), equation 2 of BYOL (Grill et al. 2020), mean over the batch.

    p [B, D]: predictions; z [B, D]: what they should be. No gradient flows to z. SimSiam's negative
    cosine (Chen & He 2021, equation 1) is half of this, less 1.
    """
    return 2 - 2 * (unit(p) * unit(lax.stop_gradient(z))).sum(-1).mean()


def barlow(z_a, z_b, weight: float):
    """Barlow Twins' loss (Zbontar et al. 2021, equations 1 and 2).

    z_a, z_b: [B, D]. The cross-correlation of the two views' features, each standardised over the
    batch, should be the identity: squared deviation of the diagonal, plus `weight` (lambda) times
    that of the rest. Reference: facebookresearch/barlowtwins main.py (BatchNorm without affine).
    """

    def standard(z):
        z = z.astype(jnp.float32)
        return (z - z.mean(0)) * lax.rsqrt(z.var(0) + 1e-5)

    c = jnp.matmul(standard(z_a).T, standard(z_b), precision=lax.Precision.HIGHEST) / len(z_a)
    on = jnp.diagonal(c)
    return jnp.square(on - 1).sum() + weight * (jnp.square(c).sum() - jnp.square(on).sum())
