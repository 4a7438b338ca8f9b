"""Prototypes: the last layer of DINO and iBOT, and the teacher's assignments of examples to
them."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Every, Positive, Rate, Width
from jssl.ops import l2_normalize, linear_schedule, sinkhorn

KEYS = {
    "temperature": Positive,
    "teacher_temp_start": Positive,
    "teacher_temp_end": Positive,
    "teacher_temp_warmup_steps": Every,
    "out_dim": Width,
    "centering": Literal["center", "sinkhorn"],
    "center_momentum": Rate,
}
SINKHORN_ITERATIONS = 3  # facebookresearch/dinov2


def init_prototypes(rng: Array, out_dim: int, width: int) -> dict[str, Array]:
    """A layer [out_dim, width] drawn as PyTorch's Linear.

    Only the directions of its rows are used; their lengths set how fast the directions change.
    """
    direction = jax.random.uniform(rng, (out_dim, width), minval=-1, maxval=1)
    return {"direction": direction * width**-0.5}


def prototype_logits(layer: dict[str, Array], z: Array) -> Array:
    """Logits [N, out_dim] of unit rows z [N, D]: a Dense layer without bias, under weight norm."""
    return z @ l2_normalize(layer["direction"]).T * layer.get("scale", 1.0)


def teacher_temperature(config: Config, step: Array) -> Array:
    """The temperature of the teacher's softmax at `step`."""
    return linear_schedule(
        step,
        config.teacher_temp_warmup_steps,
        config.teacher_temp_start,
        config.teacher_temp_end,
    )


def teacher_assignments(
    config: Config, logits: Array, center: Array, step: Array, weight: Array | None = None
) -> Array:
    """The teacher's distributions [N, K] for its logits [N, K].

    ``config.centering`` "center" subtracts the running mean `center` [K] (DINO, section 3.1);
    "sinkhorn" balances the batch (DINOv2), in which rows of weight 0 do not count. No gradient
    flows.
    """
    temperature = teacher_temperature(config, step)
    if config.centering == "sinkhorn":
        return sinkhorn(logits, temperature, SINKHORN_ITERATIONS, weight)
    return lax.stop_gradient(jax.nn.softmax((logits - center) / temperature))


def update_center(config: Config, center: Array, mean: Array) -> Array:
    """The center [K] moved toward the batch's mean logits [K]: DINO, equation 4; main_dino.py:416.
    No gradient flows."""
    momentum = config.center_momentum
    return momentum * center + (1 - momentum) * lax.stop_gradient(mean)


def weighted_mean(logits: Array, weight: Array) -> Array:
    """The mean [K] of the rows of logits [N, K] that have weight [N]."""
    return (logits * weight[:, None]).sum(0) / jnp.maximum(weight.sum(), 1)
