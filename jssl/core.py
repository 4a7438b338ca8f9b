"""The contract between a method and everything else: two named tuples of pure functions.

A method file ends in ``def build(config) -> Method``. Most methods are an `Objective` (one scalar
to minimize) turned into a `Method` by `minimize`; one with two players writes its own `train_step`
with two `descend` calls. The training loop, the evaluations and the benchmarks know only `Method`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

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
    """One optimizer update of one player.

    `loss(params) -> (scalar, aux)`; returns (params, opt_state, aux, metrics), the metrics being
    the loss and the global norms of gradient and update, all float32.
    """
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return apply_gradients(value, aux, grads, params, opt_state, tx)


def apply_gradients(value, aux, grads, params, opt_state, tx):
    """The second half of `descend`, for gradients that were accumulated elsewhere."""
    updates, opt_state = tx.update(grads, opt_state, params)
    metrics = {
        "loss": value.astype(jnp.float32),
        "grad_norm": optax.global_norm(grads).astype(jnp.float32),
        "update_norm": optax.global_norm(updates).astype(jnp.float32),
    }
    return optax.apply_updates(params, updates), opt_state, aux, metrics


def minimize(objective: Objective, tx: optax.GradientTransformation, accumulate: int = 1) -> Method:
    """Objective + optimizer = Method.

    `accumulate` splits the batch into that many micro-batches, run one after another, and applies
    the mean gradient once. Buffers (BN statistics, queue) pass through the micro-batches in order.
    A loss that compares examples of a batch then sees only those of its micro-batch.
    """

    def init(rng, batch):
        params, buffers = objective.init(rng, batch)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), buffers)

    def train_step(state, batch, rng):
        def gradients(buffers, part):
            micro, key = part
            now = state.replace(buffers=buffers)
            loss = lambda params: objective.loss(params, now, micro, key)
            (value, (buffers, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
            return buffers, (value, metrics, grads)

        if accumulate == 1:
            buffers, (value, extra, grads) = gradients(state.buffers, (batch, rng))
        else:
            parts = jax.tree.map(lambda x: split(x, accumulate), batch)
            keys = jax.random.split(rng, accumulate)
            buffers, stacked = mean_scan(gradients, state.buffers, (parts, keys))
            value, extra, grads = stacked
        params, opt_state, _, metrics = apply_gradients(
            value, None, grads, state.params, state.opt_state, tx
        )
        step = state.step + 1
        return TrainState(step, params, opt_state, buffers), {**extra, **metrics}

    def embed(state, batch):
        return objective.embed(state.params, state.buffers, batch)

    def render(state, batch, rng):
        return objective.render(state.params, state.buffers, batch, rng)

    return Method(init, train_step, embed, render if objective.render else None)
