"""The contract between a method and everything else: two named tuples of pure functions.

A method file ends in ``def build(config) -> Method``. Most methods are an `Objective` that
`minimize` turns into a `Method`; one with two players writes a `train_step` with two `descend`s.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from jssl.accumulate import mean_gradient

Tree = Any
Batch = dict[str, Array]  # leading axis = global batch: image | tokens | ..., size, index, label
Metrics = dict[str, Array]  # float32 scalars; always has "loss"


@struct.dataclass
class TrainState:
    """All that a run carries from step to step, and so all that a checkpoint holds."""

    step: Array  # int32[]: updates done
    params: Tree  # what gradients change; params["encoder"] is what is being pretrained
    opt_state: Tree
    buffers: Tree  # remembered, not trained: BN statistics, EMA target, queue, centre, bank


class Objective(NamedTuple):
    """One scalar to minimize."""

    init: Callable  # (rng, batch) -> (params, buffers)
    loss: Callable  # (params, state, batch, rng) -> (loss, (buffers, metrics))
    embed: Callable  # (params, buffers, batch) -> [B, D]
    render: Callable | None = None  # (params, buffers, batch, rng) -> {name: [B, H, W, 3]}


class Method(NamedTuple):
    """What the loop, the evaluations and the benchmarks know of a method."""

    init: Callable  # (rng, batch) -> TrainState
    train_step: Callable  # (state, batch, rng) -> (state, metrics): pure, jittable
    embed: Callable  # (state, batch) -> [B, D]
    render: Callable | None = None  # (state, batch, rng) -> {name: [B, H, W, 3] in 0..1}


def descend(loss, params, opt_state, tx):
    """One optimizer update of one player: `loss(params) -> (scalar, aux)`.

    Returns (params, opt_state, aux, metrics): loss and global norms of gradient and update.
    """
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params, opt_state, metrics = update(value, grads, params, opt_state, tx)
    return params, opt_state, aux, metrics


def update(value, grads, params, opt_state, tx):
    """The second half of `descend`: apply gradients -> (params, opt_state, metrics)."""
    updates, opt_state = tx.update(grads, opt_state, params)
    metrics = {
        "loss": value.astype(jnp.float32),
        "grad_norm": optax.tree.norm(grads).astype(jnp.float32),
        "update_norm": optax.tree.norm(updates).astype(jnp.float32),
    }
    return optax.apply_updates(params, updates), opt_state, metrics


def minimize(objective: Objective, tx: optax.GradientTransformation, accumulate: int = 1) -> Method:
    """Objective + optimizer = Method.

    `accumulate` splits the batch into that many micro-batches, run one after another, and applies
    their mean gradient once. Buffers (BN statistics, queue) pass through them in order; a loss that
    compares the examples of a batch sees only those of its micro-batch.
    """
    gradient = jax.value_and_grad(objective.loss, has_aux=True)

    def init(rng, batch):
        params, buffers = objective.init(rng, batch)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), buffers)

    def train_step(state, batch, rng):
        if accumulate == 1:
            (value, (buffers, extra)), grads = gradient(state.params, state, batch, rng)
        else:
            value, buffers, extra, grads = mean_gradient(gradient, state, batch, rng, accumulate)
        params, opt_state, metrics = update(value, grads, state.params, state.opt_state, tx)
        return TrainState(state.step + 1, params, opt_state, buffers), {**extra, **metrics}

    def embed(state, batch):
        return objective.embed(state.params, state.buffers, batch)

    def render(state, batch, rng):
        return objective.render(state.params, state.buffers, batch, rng)

    return Method(init, train_step, embed, render if objective.render else None)
