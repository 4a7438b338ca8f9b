"""Losses as plain functions of global batches: float32 inside, no state.

Arguments of another rank, shape or dtype than documented raise AssertionError while the loss is
traced. The message has their names and shapes (`jssl.ops.require_arrays`).
"""

from jssl.losses import (
    adversarial,
    classification,
    contrastive,
    distillation,
    distribution,
    language,
    likelihood,
    redundancy,
    regression,
)
from jssl.losses.adversarial import hinge_discriminator, hinge_generator
from jssl.losses.classification import (
    cross_entropy,
    cross_view_cross_entropy,
    soft_cross_entropy,
    vocab_logits,
)
from jssl.losses.contrastive import (
    dcl,
    info_nce,
    negatives_logsumexp,
    nt_xent,
    positive_and_negatives,
)
from jssl.losses.distillation import (
    cosine_distance,
    similarity_preserving,
    whitened_smooth_l1,
)
from jssl.losses.distribution import epps_pulley, koleo, sigreg
from jssl.losses.gram import gram_loss
from jssl.losses.language import next_token, next_token_nll
from jssl.losses.likelihood import (
    dequantized_gaussian,
    discretized_logistic,
    kl_standard_normal,
)
from jssl.losses.redundancy import barlow_twins, off_diagonal_squares, vicreg
from jssl.losses.regression import byol_loss, masked_l1, masked_mse, smooth_l1

__all__ = [
    "adversarial",
    "barlow_twins",
    "byol_loss",
    "classification",
    "contrastive",
    "cosine_distance",
    "cross_entropy",
    "cross_view_cross_entropy",
    "dcl",
    "dequantized_gaussian",
    "discretized_logistic",
    "distillation",
    "distribution",
    "epps_pulley",
    "gram_loss",
    "hinge_discriminator",
    "hinge_generator",
    "info_nce",
    "kl_standard_normal",
    "koleo",
    "language",
    "likelihood",
    "masked_l1",
    "masked_mse",
    "negatives_logsumexp",
    "next_token",
    "next_token_nll",
    "nt_xent",
    "off_diagonal_squares",
    "positive_and_negatives",
    "redundancy",
    "regression",
    "sigreg",
    "similarity_preserving",
    "smooth_l1",
    "soft_cross_entropy",
    "vicreg",
    "vocab_logits",
    "whitened_smooth_l1",
]
