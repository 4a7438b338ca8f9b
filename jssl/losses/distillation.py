"""Losses of a student that learns the features of a frozen teacher."""

import jax.numpy as jnp
from jax import Array, lax

from jssl.losses.regression import smooth_l1
from jssl.ops import l2_normalize, layer_norm_rows, require_arrays

BETA = 2.0  # of the smooth L1 loss: SwinTransformer/Feature-Distillation


def cosine_distance(prediction: Array, target: Array) -> Array:
    """1 - cos(prediction, target), mean over all rows, float32 [].

    AM-RADIO (Ranzinger et al. 2024, arXiv 2312.06709, section 3) uses it for the features of an
    image; there the features of patches have .9 of it and .1 of a smooth L1 loss. The lengths of
    the teacher's features do not matter, so they are not normalized.

    Args:
      prediction: float [..., D], the projected features of the student.
      target: float [..., D], the features of the teacher. No gradient flows to them.
    """
    require_arrays(prediction=(prediction, "float [..., D]"), target=(target, "float [..., D]"))
    unit = l2_normalize(lax.stop_gradient(target))
    return 1 - (l2_normalize(prediction) * unit).sum(-1).mean()


def whitened_smooth_l1(prediction: Array, target: Array) -> Array:
    """The smooth L1 distance to the normalized target, mean over all elements, float32 [].

    Feature distillation (Wei et al. 2022, arXiv 2205.14141, section 3): each row of the teacher has
    mean 0 and deviation 1 ("whitening", a LayerNorm without parameters), and beta is 2.

    Args:
      prediction: float [..., D], the projected features of the student.
      target: float [..., D], the features of the teacher. No gradient flows to them.
    """
    require_arrays(prediction=(prediction, "float [..., D]"), target=(target, "float [..., D]"))
    white = layer_norm_rows(lax.stop_gradient(target))
    return smooth_l1(prediction.astype(jnp.float32) - white, BETA).mean()


def similarity_preserving(features: Array, target: Array) -> Array:
    """The mean square of the difference of two similarity matrices of a batch, float32 [].

    Tung and Mori 2019 (arXiv 1907.09682, section 3): with G = Q Q^T, of which each row is then
    divided by its length, the loss is |G_teacher - G_student|^2 / B^2. There Q has the whole
    feature maps as rows, here the pooled features. No projection is needed.

    Args:
      features: float [B, D], of the student.
      target: float [B, E], of the teacher. No gradient flows to them.
    """
    require_arrays(features=(features, "float [B, D]"), target=(target, "float [B, E]"))

    def similarities(x: Array) -> Array:
        x = x.astype(jnp.float32)
        return l2_normalize(jnp.matmul(x, x.T, precision=lax.Precision.HIGHEST))

    difference = similarities(features) - similarities(lax.stop_gradient(target))
    return jnp.square(difference).mean()
