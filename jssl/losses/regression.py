"""Regression losses: the error of a prediction of pixels or of features."""

import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import l2_normalize, require_arrays


def masked_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the masked patches only, float32 []: MAE (He et al. 2022), section 3.

    Args:
      prediction, target: float [B, N, P].
      mask: [B, N], 1 where a patch is masked.
    """
    require_arrays(
        prediction=(prediction, "float [B, N, P]"),
        target=(target, "float [B, N, P]"),
        mask=(mask, "[B, N]"),
    )
    error = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (error * mask).sum() / mask.sum()


def masked_l1(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean absolute error over the masked patches only, float32 []: SimMIM (Xie et al. 2022),
    equation 1.

    Args:
      prediction, target: float [B, N, P].
      mask: [B, N], 1 where a patch is masked.
    """
    require_arrays(
        prediction=(prediction, "float [B, N, P]"),
        target=(target, "float [B, N, P]"),
        mask=(mask, "[B, N]"),
    )
    error = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (error * mask).sum() / mask.sum()


def smooth_l1(error: Array, beta: float) -> Array:
    """error^2 / (2 beta) where |error| < beta, else |error| - beta / 2; elementwise, float32.

    Source: data2vec, section 3.3; torch.nn.functional.smooth_l1_loss.
    """
    size = jnp.abs(error.astype(jnp.float32))
    is_large = size >= beta  # False for NaN
    small = jnp.where(is_large, 0, size)  # the square of an infinite error has a NaN gradient
    return jnp.where(is_large, size - beta / 2, jnp.square(small) / (2 * beta))


def byol_loss(p: Array, z: Array) -> Array:
    """2 - 2 cos(p, z), mean over the batch, float32 []: BYOL (Grill et al. 2020), equation 2.

    SimSiam's negative cosine (Chen & He 2021, equation 1) is half of this, minus 1.

    Args:
      p: float [B, D], the predictions.
      z: float [B, D], the targets. No gradient flows to them.
    """
    require_arrays(p=(p, "float [B, D]"), z=(z, "float [B, D]"))
    return 2 - 2 * (l2_normalize(p) * l2_normalize(lax.stop_gradient(z))).sum(-1).mean()
