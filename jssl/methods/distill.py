"""Distillation: a student learns the features of a frozen, pretrained teacher, without labels.

Teacher and student see the same random view of each image (Beyer et al. 2022, arXiv 2106.05237,
section 3: "consistent"). Four losses, each with a weight:

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
from jssl.nn import feature_maps, frozen, heads, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.prototypes import SINKHORN_ITERATIONS, init_prototypes, prototype_logits
from jssl.ops import l2_normalize, sinkhorn

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
    names = ("global", "dense", "relation", "prototype")
    weights = {name: config[f"{name}_weight"] for name in names if config[f"{name}_weight"]}
    if not weights:
        raise ConfigError("config.global_weight", 0.0, "all four weights are 0", "try 1.0")
    student = feature_maps.image_encoder(config.model, "model")
    teacher = frozen.teacher_from_config(config, "prototype" in weights)
    feature_loss = LOSSES[config.loss]
    train_view = masked_image.train_view(config)
    eval_view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)
    dims = (student.dim, teacher.encoder.dim)
    projections = {}
    if "global" in weights:
        projections["head"] = projection(config, teacher.encoder.dim)
    if "prototype" in weights:
        projections["prototype_head"] = frozen.head_from_config(config)

    def init_all(rng, batch):
        rngs = jax.random.split(rng, 6)
        views = eval_view(batch)
        params = {}
        stats = {}
        params["encoder"], stats["encoder"] = init(student, rngs[0], views)
        for key, (name, module) in zip(rngs[1:3], projections.items(), strict=False):
            params[name], stats[name] = init(module, key, jnp.zeros((2, student.dim)))
        if "dense" in weights:
            params["dense_head"] = masked_image.init_torch_dense(rngs[3], *dims)
        if "prototype" in weights:
            z_width = projections["prototype_head"].features[-1]
            params["prototypes"] = init_prototypes(rngs[4], config.out_dim, z_width)
        return params, {"stats": stats} | teacher.init(rngs[5], views)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        views = train_view(rng_view, batch)
        target = teacher(state.buffers, views)
        stats = dict(state.buffers["stats"])
        features, feature_map, stats["encoder"] = feature_maps.run_encoder(
            student, params["encoder"], stats["encoder"], views, True, {"drop_path": rng_net}
        )
        outputs = {"features": features, "target": target}
        for name, module in projections.items():
            outputs[name], stats[name] = apply(
                module, params[name], stats[name], features, train=True
            )
        if "dense" in weights:
            projected = masked_image.dense(params["dense_head"], feature_map)
            outputs["map"] = feature_maps.resized(projected, *target["map"].shape[1:3])
        else:
            del target["map"]
        return outputs, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        target = outputs["target"]
        values = {}
        if "global" in weights:
            values["global"] = feature_loss(outputs["head"], target["features"])
        if "dense" in weights:
            values["dense"] = feature_loss(outputs["map"], target["map"])
        if "relation" in weights:
            values["relation"] = similarity_preserving(outputs["features"], target["features"])
        if "prototype" in weights:
            z = l2_normalize(outputs["prototype_head"])
            logits = prototype_logits(params["prototypes"], z) / config.temperature
            p = sinkhorn(target["logits"], config.teacher_temp, SINKHORN_ITERATIONS)
            values["prototype"] = soft_cross_entropy(logits, p)
        metrics = {f"{name}_loss": value for name, value in values.items()}
        metrics |= monitor(state.step, outputs["features"])
        return sum(weights[name] * values[name] for name in weights), (state.buffers, metrics)

    def embed(params, buffers, batch):
        net = EncoderWithHeads({"encoder": student})
        return net.embed(params, buffers["stats"], eval_view(batch))

    objective = split_objective(init_all, forward, loss, embed)
    compares = "relation" in weights or "prototype" in weights
    return objective if compares else objective._replace(stages=None)


def projection(config: Config, width: int) -> heads.MLP:
    """The student's projection to features of the teacher: an MLP of ``config.hidden``."""
    features = (*config.hidden, width)
    dtype = jnp.dtype(config.model.dtype)
    return heads.MLP(features, True, False, False, True, "relu", "torch", dtype)
