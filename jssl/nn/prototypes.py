"""Prototypes: the last layer of DINO and iBOT, and the teacher's assignments to them."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Every, Positive, Rate, Width
from jssl.ops import l2_normalize, linear_schedule, require_arrays, sinkhorn

KEYS = {
    "temperature": Annotated[Positive, "softmax temperature of the student (the paper's tau_s)"],
    "teacher_temp_start": Annotated[
        Positive, "softmax temperature of the teacher (tau_t) at step 0"
    ],
    "teacher_temp_end": Annotated[
        Positive, "softmax temperature of the teacher (tau_t) after its warm-up"
    ],
    "teacher_temp_warmup_steps": Annotated[
        Every, "steps in which tau_t goes linearly from its start to its end"
    ],
    "out_dim": Annotated[Width, "number of prototypes: the width of the output (the paper's K)"],
    "centering": Annotated[
        Literal["center", "sinkhorn"],
        "balances the teacher's outputs: a center (DINO), or Sinkhorn-Knopp (DINOv2)",
    ],
    "center_momentum": Annotated[Rate, "decay of the moving average of the center (the paper's m)"],
}
SINKHORN_ITERATIONS = 3  # facebookresearch/dinov2


def init_prototypes(rng: Array, out_dim: int, width: int) -> dict[str, Array]:
    """A layer {"direction": [out_dim, width]}, drawn as PyTorch's Linear.

    Only the directions of its rows matter for the output. Their lengths determine how fast the
    directions change.
    """
    direction = jax.random.uniform(rng, (out_dim, width), minval=-1, maxval=1)
    return {"direction": direction * width**-0.5}


def prototype_logits(layer: dict[str, Array], z: Array) -> Array:
    """Logits [N, out_dim] of unit rows z [N, D]: a Dense layer with weight norm and no bias."""
    direction = layer["direction"]
    require_arrays(direction=(direction, "float [K, D]"), z=(z, "float [N, D]"))
    return z @ l2_normalize(direction).T * layer.get("scale", 1.0)


def teacher_temperature(config: Config, step: Array) -> Array:
    """The temperature of the teacher's softmax at `step`, []."""
    return linear_schedule(
        step,
        config.teacher_temp_warmup_steps,
        config.teacher_temp_start,
        config.teacher_temp_end,
    )


def teacher_assignments(
    config: Config,
    logits: Array,
    center: Array,
    temperature: Array | float,
    weight: Array | None = None,
) -> Array:
    """The teacher's distributions over the prototypes, [N, K]. No gradient flows through.

    Args:
      config: the whole config. With ``config.centering`` "center", the center is subtracted from
        the logits (DINO, section 3.1). With "sinkhorn", the assignments of the batch are balanced
        (DINOv2).
      logits: [N, K], of the teacher.
      center: [K], the running mean of the logits.
      temperature: of the teacher's softmax (`teacher_temperature`).
      weight: [N] or None; rows of weight 0 do not count in the balance.
    """
    require_arrays(
        logits=(logits, "float [N, K]"), center=(center, "float [K]"), weight=(weight, "[N]")
    )
    if config.centering == "sinkhorn":
        return sinkhorn(logits, temperature, SINKHORN_ITERATIONS, weight)
    return lax.stop_gradient(jax.nn.softmax((logits - center) / temperature))


def update_center(config: Config, center: Array, mean: Array) -> Array:
    """The moving average of the center [K] and the mean logits [K] of a batch.

    Source: DINO, equation 4; main_dino.py:416. No gradient flows to `mean`.
    """
    require_arrays(center=(center, "float [K]"), mean=(mean, "float [K]"))
    momentum = config.center_momentum
    return momentum * center + (1 - momentum) * lax.stop_gradient(mean)


def weighted_mean(logits: Array, weight: Array) -> Array:
    """The mean of the logits [N, K] with weights [N] of 0 or 1, float [K]."""
    require_arrays(logits=(logits, "float [N, K]"), weight=(weight, "[N]"))
    return (logits * weight[:, None]).sum(0) / jnp.maximum(weight.sum(), 1)
