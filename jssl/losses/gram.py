"""Gram anchoring: the similarities between the patches of an image stay those of a teacher."""

import jax.numpy as jnp
from jax import Array, lax

from jssl.ops import l2_normalize, require_arrays


def gram_loss(x: Array, target: Array) -> Array:
    """The mean square of the difference of two Gram matrices per image, float32 [].

    DINOv3 (Simeoni et al. 2025, arXiv 2508.10104, equation 2, which has the sum and not the mean;
    facebookresearch/dinov3 dinov3/loss/gram_loss.py, with img_level and without remove_neg).

    Args:
      x: float [B, N, D], patches of the student, any scale.
      target: float [B, N, E], the same patches of the teacher; no gradient.
    """
    require_arrays(x=(x, "float [B, N, D]"), target=(target, "float [B, N, E]"))

    def similarity(patches: Array) -> Array:
        unit = l2_normalize(patches.astype(jnp.float32))
        return jnp.einsum("bnd,bmd->bnm", unit, unit)

    return jnp.square(similarity(x) - similarity(lax.stop_gradient(target))).mean()
