"""Distillation: "AM-RADIO: Agglomerative Vision Foundation Model - Reduce All Domains Into One"
(Ranzinger, Heinrich, Kautz, Molchanov; CVPR 2024; arXiv 2312.06709), with one teacher.

A student learns the features of a frozen, pretrained teacher, without labels. Both see the same
random view of each image ("consistent" teaching: Beyer et al. 2022, arXiv 2106.05237). There are
four losses, each with a weight:

global_weight     the student's features, projected to the teacher's width, against the teacher's:
                  `config.loss` "cosine" (AM-RADIO, arXiv 2312.06709) or "smooth_l1" (feature
                  distillation, arXiv 2205.14141). `config.hidden` sets the projection's layers.
dense_weight      the same loss at each position of the feature map: the tokens of patches, or the
                  last map of a ResNet. The student's map is projected linearly and resized to the
                  teacher's grid, as in AM-RADIO (section 3).
relation_weight   the similarities of the images of a batch (Tung and Mori 2019, arXiv 1907.09682).
prototype_weight  the cross-entropy of the student's distribution over prototypes of its own with
                  the frozen teacher's, whose assignments Sinkhorn-Knopp balances (DINOv2,
                  arXiv 2304.07193, section 5). The teacher is a workdir of dino or ibot.
                  Differences: one view for both, no loss of patches, no moving average.

`jssl.nn.frozen` has the teacher, and `jssl.losses.distillation` the losses. The student is
evaluated.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError
from jssl.config.values import NonNegative, Positive, Whole, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import (
    cosine_distance,
    similarity_preserving,
    soft_cross_entropy,
    whitened_smooth_l1,
)
from jssl.metrics import monitor_from_config
from jssl.nn import feature_maps, frozen, masked_image
from jssl.nn.apply import EncoderWithHeads
from jssl.nn.prototypes import SINKHORN_ITERATIONS
from jssl.nn.student import student_from_config
from jssl.ops import sinkhorn

LOSSES = {"cosine": cosine_distance, "smooth_l1": whitened_smooth_l1}
KEYS = {
    "loss": Annotated[
        Literal["cosine", "smooth_l1"], "distance of features: 1 - cosine, or smooth L1"
    ],
    "global_weight": Annotated[NonNegative, "weight of the loss of an image's features; 0: off"],
    "dense_weight": Annotated[NonNegative, "weight of the loss of the feature maps; 0: off"],
    "relation_weight": Annotated[
        NonNegative, "weight of the loss of the similarities in a batch; 0: off"
    ],
    "prototype_weight": Annotated[
        NonNegative, "weight of the cross-entropy over prototypes; 0: off"
    ],
    "hidden": Annotated[
        tuple[Width, ...], "widths of the hidden layers of the projection; (): it is linear"
    ],
    "out_dim": Annotated[Whole, "number of prototypes; 0: as the teacher's weights have"],
    "temperature": Annotated[Positive, "softmax temperature of the student's prototypes"],
    "teacher_temp": Annotated[Positive, "softmax temperature of the teacher's prototypes"],
}
SECTIONS = frozen.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    weights = weights_of(config)
    teacher = frozen.teacher_from_config(config, "prototype" in weights)
    student = student_from_config(config, teacher, list(weights))
    feature_loss = LOSSES[config.loss]
    train_view = masked_image.train_view(config)
    eval_view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init(rng, batch):
        rng_student, rng_teacher = jax.random.split(rng)
        views = eval_view(batch)
        params, stats = student.init(rng_student, views)
        return params, {"stats": stats} | teacher.init(rng_teacher, views)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        views = train_view(rng_view, batch)
        outputs, stats = student(params, state.buffers["stats"], views, rng_net)
        target = teacher(state.buffers, views)
        if "map" in outputs:
            outputs["map"] = feature_maps.resized(outputs["map"], *target["map"].shape[1:3])
        else:
            del target["map"]
        return outputs | {"teacher": target}, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        target = outputs["teacher"]
        values = {}
        if "global" in weights:
            values["global"] = feature_loss(outputs["head"], target["features"])
        if "dense" in weights:
            values["dense"] = feature_loss(outputs["map"], target["map"])
        if "relation" in weights:
            values["relation"] = similarity_preserving(outputs["features"], target["features"])
        if "prototype" in weights:
            logits = student.logits(params, outputs["prototype_head"]) / config.temperature
            p = sinkhorn(target["logits"], config.teacher_temp, SINKHORN_ITERATIONS)
            values["prototype"] = soft_cross_entropy(logits, p)
        metrics = {f"{name}_loss": value for name, value in values.items()}
        metrics |= monitor(state.step, outputs["features"])
        total = jnp.stack([weights[name] * values[name] for name in weights]).sum()
        return total, (state.buffers, metrics)

    def embed(params, buffers, batch):
        net = EncoderWithHeads({"encoder": student.encoder})
        return net.embed(params, buffers["stats"], eval_view(batch))

    objective = split_objective(init, forward, loss, embed)
    compares = "relation" in weights or "prototype" in weights
    return objective if compares else objective._replace(stages=None)


def weights_of(config: Config) -> dict[str, float]:
    """{"global": config.global_weight, ...} of the losses that are on.

    Raises:
      UserError: all are off.
    """
    names = ("global", "dense", "relation", "prototype")
    weights = {name: config[f"{name}_weight"] for name in names if config[f"{name}_weight"]}
    if not weights:
        raise ConfigError("config.global_weight", 0.0, "all four weights are 0", "try 1.0")
    return weights
