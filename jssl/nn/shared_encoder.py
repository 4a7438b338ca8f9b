"""Parameters and buffers of several tasks that share one encoder.

``params`` is {"encoder": ..., task: its other parameters}, ``buffers`` is {"stats": {"encoder": the
shared BatchNorm statistics}, task: its other buffers}.
"""

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.core import Buffers, Metrics, Params, TrainState, Tree


def own_params(params: Params, task: str) -> Params:
    """The parameters of a task, as its method has them."""
    return {"encoder": params["encoder"]} | params[task]


def own_buffers(buffers: Buffers, task: str) -> Buffers:
    """The buffers of a task, as its method has them."""
    own = dict(buffers[task])
    if "stats" in own:
        own["stats"] = buffers["stats"] | own["stats"]
    return own


def own_state(state: TrainState, task: str) -> TrainState:
    """The state of a task, without the state of the optimizer."""
    return state.replace(
        params=own_params(state.params, task),
        buffers=own_buffers(state.buffers, task),
        opt_state=(),
    )


def join_params(params: Params, task: str, own: Params) -> Params:
    """`params` with those of a task; the encoder is that of the task."""
    others = {name: value for name, value in own.items() if name != "encoder"}
    return params | {"encoder": own["encoder"], task: others}


def join_buffers(buffers: Buffers, task: str, own: Buffers) -> Buffers:
    """`buffers` with those of a task; the statistics of the encoder are those of the task."""
    joined = dict(buffers) | {task: dict(own)}
    if "encoder" in own.get("stats", {}):
        heads = {name: value for name, value in own["stats"].items() if name != "encoder"}
        joined["stats"] = {"encoder": own["stats"]["encoder"]}
        joined[task]["stats"] = heads
    return joined


def weighted_sum(gradients: Mapping[str, Params], factors: Mapping[str, Array | float]) -> Params:
    """The gradient of all parameters from {task: gradient of its parameters} and factors."""
    total: Params = {}
    for task, gradient in gradients.items():
        scaled = jax.tree.map(lambda g, factor=factors[task]: factor * g, gradient)
        if total:
            both = jax.tree.map(jnp.add, total["encoder"], scaled["encoder"])
            scaled = scaled | {"encoder": both}
        total = join_params(total, task, scaled)
    return total


def cosines(gradients: Mapping[str, Tree], norms: Mapping[str, Array]) -> Metrics:
    """{"cosine_a_b": cosine of the gradients of the tasks a and b} of all pairs.

    Args:
      gradients: {task: gradient of the encoder}.
      norms: {task: its norm, float32 []}.
    """
    found = {}
    for a, b in itertools.combinations(gradients, 2):
        product = jnp.asarray(optax.tree.vdot(gradients[a], gradients[b]))
        found[f"cosine_{a}_{b}"] = product / jnp.maximum(norms[a] * norms[b], 1e-30)
    return found
