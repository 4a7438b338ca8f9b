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
