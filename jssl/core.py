"""The contract between a method and everything else: two named tuples of pure functions.

A method file ends in ``def build(config) -> Method``. Most are an `Objective` that `minimize` turns
into a `Method`; one with two players writes a `train_step` with two `gradient_step`s.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jssl.config import UserError
from jssl.training.gradients import (
    apply_gradients,
    gradient_fn,
    skip_nonfinite,
    stays_finite,
    zero_counters,
)

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
    skipped: Array = struct.field(default_factory=zero_counters)  # int32[2]: see accumulate.guard


class Objective(NamedTuple):
    """One scalar to minimize."""

    init: Callable  # (rng, batch) -> (params, buffers)
    loss: Callable  # (params, state, batch, rng) -> (loss, (buffers, metrics))
    embed: Callable  # (params, buffers, batch) -> [B, D]
    render: Callable | None = None  # (params, buffers, batch, rng) -> see Method
    score: Callable | None = None  # (params, buffers, batch) -> see Method
    prepare: Callable | None = None  # (state, rng) -> state: once an update, ahead of the loss
    parts: tuple[Callable, Callable] | None = None  # (encode, compare), see `split_objective`


def split_objective(init, encode, compare, embed, prepare=None) -> Objective:
    """An objective in two parts, networks that see examples and a loss that compares what they say.

    encode(params, state, batch, rng) -> (outputs, buffers): a tree of float [B v, ...], v rows of
    each example in a row. compare(params, outputs, state, batch, rng) -> (loss, (buffers,
    metrics)); its state has the buffers that encode left.
    """

    def loss(params, state, batch, rng):
        rng_encode, rng_compare = jax.random.split(rng)
        outputs, buffers = encode(params, state, batch, rng_encode)
        return compare(params, outputs, state.replace(buffers=buffers), batch, rng_compare)

    return Objective(init, loss, embed, prepare=prepare, parts=(encode, compare))


class Method(NamedTuple):
    """What the loop, the evaluations and the benchmarks know of a method."""

    init: Callable  # (rng, batch) -> TrainState
    train_step: Callable  # (state, batch, rng) -> (state, metrics): pure, jittable
    embed: Callable  # (state, batch) -> [B, D]
    render: Callable | None = None  # (state, batch, rng) -> {name: images in 0..1 or token ids}
    score: Callable | None = None  # (state, batch) -> [B, L]: -log p in nats; -1: uncounted
    accumulate: int = 1  # micro-batches of an update of `train_step`, as `minimize` was told
    grad_cache: bool = False  # whether the loss compares the examples of all of them
    compares: bool = False  # whether the loss compares examples of a batch with each other


def skip_nonfinite_updates(method: Method, name: str) -> Method:
    """`method` whose `train_step` skips updates that are not finite, whoever wrote it.

    Setup does this to every method. `minimize` guards its own step by loss and gradient, which
    costs nothing; any other step is judged by its loss, by the metrics whose name ends in
    "grad_norm", and by the new state: what was finite stays finite. `name` is for messages.
    `UserError`, while the step is traced, if its metrics are not float scalars with a "loss".
    """

    def train_step(state, batch, rng):
        new, metrics = method.train_step(state, batch, rng)
        check_metrics(metrics, name)
        if "skipped_row" in metrics:  # it has guarded itself
            return new, metrics
        norms = [value for key, value in metrics.items() if key.endswith("grad_norm")]
        ok = stays_finite(new, state)
        for value in (metrics["loss"], *norms):
            ok &= jnp.isfinite(value)
        return skip_nonfinite(new.replace(step=state.step + 1), state, metrics, ok)

    return method._replace(train_step=train_step)


def check_metrics(metrics: Metrics, name: str) -> None:
    """`UserError` unless `metrics` is a dict of scalars with a "loss"."""
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise UserError(
            f"config.method={name!r}: train_step gives metrics without 'loss'; "
            "give a dict of float32 scalars that has it"
        )
    for key, value in metrics.items():
        if jnp.shape(value) != ():
            raise UserError(
                f"config.method={name!r}: the metric {key!r} has the shape {jnp.shape(value)}; "
                "give its mean, or leave it out"
            )


def gradient_step(loss, params, opt_state, tx):
    """One update of one player by `loss(params) -> (scalar, aux)`: (params, ..., aux, metrics)."""
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params, opt_state, metrics = apply_gradients(value, grads, params, opt_state, tx)
    return params, opt_state, aux, metrics


def minimize(objective: Objective, tx, accumulate: int = 1, grad_cache: bool = False) -> Method:
    """Objective + optimizer = Method.

    `accumulate` micro-batches run one after another, buffers pass through them in order, the mean
    gradient is applied once. A loss then compares only examples of a micro-batch, unless
    `grad_cache` (see `accumulate.py`).
    """
    gradient = gradient_fn(objective, accumulate, grad_cache)

    def init(rng, batch):
        params, buffers = objective.init(rng, batch)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), buffers)

    def train_step(state, batch, rng):
        if objective.prepare:
            rng, rng_prepare = jax.random.split(rng)
            state = objective.prepare(state, rng_prepare)
        (value, (buffers, extra)), grads = gradient(state, batch, rng)
        params, opt_state, metrics = apply_gradients(
            value, grads, state.params, state.opt_state, tx
        )
        new = TrainState(state.step + 1, params, opt_state, buffers)
        return skip_nonfinite(new, state, {**extra, **metrics})

    of = lambda f: f and (lambda state, *rest: f(state.params, state.buffers, *rest))
    shown = (of(objective.embed), of(objective.render), of(objective.score))
    return Method(init, train_step, *shown, accumulate, grad_cache, bool(objective.parts))
