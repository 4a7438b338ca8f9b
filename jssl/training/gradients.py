"""Gradients of an objective: of a whole batch, of micro-batches, or by GradCache; and the guard
that skips an update that is not finite.
"""

import functools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.config import ConfigError
from jssl.core import (
    Batch,
    Buffers,
    GradientFn,
    Method,
    Metrics,
    Objective,
    Params,
    TrainState,
    Tree,
    apply_gradients,
)

# ((loss float32 [], (next buffers, metrics)), gradient as `params`)
LossAndGradient = tuple[tuple[Array, tuple[Buffers, Metrics]], Params]


def minimize(
    objective: Objective,
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    grad_cache: bool = False,
) -> Method:
    """Combines an objective and an optimizer to a method.

    Args:
      objective: init, loss and embed.
      tx: the optimizer.
      accumulate: micro-batches of one update. They run one after another, the buffers pass through
        them in order, and the mean gradient is applied once.
      grad_cache: whether the loss compares the examples of all micro-batches; without it, it
        compares only those of one micro-batch.

    Raises:
      UserError: `accumulate` and `grad_cache` do not fit each other or the objective.
    """
    gradient = gradient_fn(objective, accumulate, grad_cache)

    def init(rng: Array, batch: Batch) -> TrainState:
        params, buffers = objective.init(rng, batch)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), buffers)

    def train_step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        if objective.before_update:
            rng, rng_update = jax.random.split(rng)
            state = objective.before_update(state, rng_update)
        (value, (buffers, extra)), grads = gradient(state, batch, rng)
        params, opt_state, metrics = apply_gradients(
            value, grads, state.params, state.opt_state, tx
        )
        new = TrainState(state.step + 1, params, opt_state, buffers)
        return skip_nonfinite(new, state, {**extra, **metrics})

    return Method(
        init,
        train_step,
        embed=of_state(objective.embed),
        render=of_state(objective.render) if objective.render else None,
        token_nll=of_state(objective.token_nll) if objective.token_nll else None,
        accumulate=accumulate,
        grad_cache=grad_cache,
        compares=objective.stages is not None,
        embeds=objective.embeds,
        sample=of_state(objective.sample) if objective.sample else None,
        accumulates=True,
    )


def of_state(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``f(params, buffers, ...)`` a function of (state, ...)."""

    def call(state: TrainState, *arguments: Any) -> Any:
        return function(state.params, state.buffers, *arguments)

    return call


def skip_nonfinite(
    new: TrainState, old: TrainState, metrics: Metrics, ok: Array | None = None
) -> tuple[TrainState, Metrics]:
    """Keeps the weights of `old` if the update to `new` is not finite.

    `skipped` of the state counts such updates, consecutive ones and all. The count stays on the
    device. `jssl.training.rollback` reacts to it.

    Args:
      new: the state after the update.
      old: the state before it.
      metrics: of the update; has "loss" and, without `ok`, "grad_norm".
      ok: bool [], whether the update is finite; None: whether loss and gradient norm are.

    Returns:
      (state, metrics): `new`, or `old` at the next step; the metrics also have "skipped" and
      "skipped_consecutive".
    """
    if ok is None:
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

    def keep(new, old):
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)

    row, total = old.skipped
    state = new.replace(
        params=keep(new.params, old.params),
        opt_state=keep(new.opt_state, old.opt_state),
        buffers=keep(new.buffers, old.buffers),
        skipped=jnp.where(ok, jnp.stack([0 * row, total]), old.skipped + 1),
    )
    return state, metrics | {
        "skipped_consecutive": state.skipped[0].astype(jnp.float32),
        "skipped": state.skipped[1].astype(jnp.float32),
    }


def stays_finite(new: TrainState, old: TrainState) -> Array:
    """bool []: whether every number that is finite in the state `old` is finite in `new`."""

    def finite(a: Array, b: Array) -> Array | bool:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return True
        return jnp.all(jnp.isfinite(a) | ~jnp.isfinite(b))

    trees = [(state.params, state.opt_state, state.buffers) for state in (new, old)]
    return jnp.all(
        jnp.stack([jnp.asarray(x) for x in jax.tree.leaves(jax.tree.map(finite, *trees))])
    )


def skip_nonfinite_updates(method: Method, name: str) -> Method:
    """Makes the `train_step` of any method skip updates that are not finite.

    Setup applies this to every method. `minimize` already guards its step by loss and gradient,
    which costs nothing. Any other step is checked by its loss, by the metrics whose name ends in
    "grad_norm", and by the new state, in which finite numbers must stay finite.

    Args:
      method: any method.
      name: ``config.method``, for messages.

    Raises:
      UserError: while the step is traced, if its metrics are not float scalars with a "loss".
    """

    def train_step(state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        new, metrics = method.train_step(state, batch, rng)
        check_metrics(metrics, name)
        if "skipped_consecutive" in metrics:  # the step has its own guard
            return new, metrics
        norms = [value for key, value in metrics.items() if key.endswith("grad_norm")]
        ok = stays_finite(new, state)
        for value in (metrics["loss"], *norms):
            ok &= jnp.isfinite(value)
        return skip_nonfinite(new.replace(step=state.step + 1), state, metrics, ok)

    return method._replace(train_step=train_step)


def check_metrics(metrics: Metrics, name: str) -> None:
    """Raises `UserError` unless `metrics` is a dict of scalars with a "loss"."""
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ConfigError(
            "config.method",
            name,
            "train_step gives metrics without 'loss'",
            "give a dict of float32 scalars that has it",
        )
    for key, value in metrics.items():
        if jnp.shape(value) != ():
            raise ConfigError(
                "config.method",
                name,
                f"the metric {key!r} has the shape {jnp.shape(value)}",
                "give its mean, or leave it out",
            )


def gradient_fn(objective: Objective, n: int, grad_cache: bool) -> GradientFn:
    """Returns (state, batch, rng) -> ((loss, (buffers, metrics)), gradient), in n micro-batches.

    Raises:
      UserError: `n` and `grad_cache` do not fit each other or the objective.
    """
    if n < 1:
        raise ConfigError("config.accumulate", n, "must be at least 1", "try 1")
    if grad_cache and n == 1:
        raise ConfigError("config.grad_cache", True, "needs config.accumulate above 1", "try 4")
    if grad_cache and not objective.stages:
        raise ConfigError(
            "config.grad_cache",
            True,
            "the method's loss is not split in two (jssl.core.split_objective)",
            "set it to False",
        )
    if n == 1:
        return whole_gradient(objective)
    return partial(grad_cache_gradient if grad_cache else mean_gradient, objective, n=n)


def whole_gradient(objective: Objective) -> GradientFn:
    """The gradient of an objective over one batch."""
    if objective.gradient:
        return objective.gradient
    return lambda state, batch, rng: jax.value_and_grad(objective.loss, has_aux=True)(
        state.params, state, batch, rng
    )


def mean_gradient(
    objective: Objective, state: TrainState, batch: Batch, rng: Array, *, n: int
) -> LossAndGradient:
    """Averages loss, metrics and gradient over n micro-batches; one at a time is in memory."""
    gradient = whole_gradient(objective)

    def add_gradient(carry: tuple[Buffers, Params], inputs: tuple[Batch, Array]) -> Any:
        buffers, total = carry
        now = state.replace(buffers=buffers)
        micro_batch, key = inputs
        (value, (buffers, metrics)), grads = gradient(now, micro_batch, key)
        return (buffers, jax.tree.map(jnp.add, total, grads)), (value, metrics)

    carry = (state.buffers, jax.tree.map(jnp.zeros_like, state.params))
    micro_batches = (split_microbatches(batch, n), jax.random.split(rng, n))
    (buffers, total), (values, metrics) = jax.lax.scan(add_gradient, carry, micro_batches)
    mean = jax.tree.map(lambda m: m.mean(0), metrics)
    return (values.mean(), (buffers, mean)), jax.tree.map(lambda g: g / n, total)


def grad_cache_gradient(
    objective: Objective, state: TrainState, batch: Batch, rng: Array, *, n: int
) -> LossAndGradient:
    """As `mean_gradient`, but the loss compares all examples of the batch: GradCache
    (Gao et al. 2021, arXiv 2101.06983, section 3.3).

    (1) Runs the forward pass of all micro-batches without gradients. (2) Differentiates the loss
    with respect to their outputs. (3) Runs each forward pass again and backpropagates its slice of
    that gradient. Only outputs, never activations, are in memory for the whole batch.

    Without BatchNorm the result equals that of the whole batch. With BatchNorm each micro-batch has
    its own statistics and the gradient differs: the statistics of a layer depend on those of all
    layers before it, so two passes cannot find the statistics of the whole batch. Then a warning is
    logged.
    """
    assert objective.stages is not None
    forward, loss = objective.stages
    rows = len(jax.tree.leaves(batch)[0]) // n
    if normalizes(state.buffers):
        warn_of_norm(rows, rows * n)
    rng_forward, rng_loss = jax.random.split(rng)
    micro_batches = (split_microbatches(batch, n), jax.random.split(rng_forward, n))

    def run_forward(buffers: Buffers, inputs: tuple[Batch, Array]) -> tuple[Buffers, Tree]:
        out, buffers = forward(state.params, state.replace(buffers=buffers), *inputs)
        return buffers, out

    buffers, outputs = jax.lax.scan(run_forward, state.buffers, micro_batches)
    loss_and_gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
    now = state.replace(buffers=buffers)
    loss_and_aux, (direct, cotangent) = loss_and_gradient(
        state.params, merge_microbatches(outputs, rows), now, batch, rng_loss
    )
    cotangents = jax.tree.map(
        lambda x: split_microbatches(x.reshape(rows * n, -1, *x.shape[1:]), n), cotangent
    )
    cotangents = jax.tree.map(lambda c, o: c.reshape(o.shape), cotangents, outputs)
    backward = partial(_backpropagate, objective, state)
    (_, grads), _ = jax.lax.scan(backward, (state.buffers, direct), (micro_batches, cotangents))
    return loss_and_aux, grads


def _backpropagate(
    objective: Objective,
    state: TrainState,
    carry: tuple[Buffers, Params],
    inputs: tuple[tuple[Batch, Array], Tree],
) -> tuple[tuple[Buffers, Params], None]:
    """Adds the gradient of one micro-batch, whose outputs have the gradient `cotangent`."""
    assert objective.stages is not None
    forward, _ = objective.stages
    buffers, total = carry
    micro_batch, cotangent = inputs

    def run_again(params: Params) -> tuple[Tree, Buffers]:
        return forward(params, state.replace(buffers=buffers), *micro_batch)

    _, pullback, buffers = jax.vjp(run_again, state.params, has_aux=True)
    (grads,) = pullback(cotangent)
    return (buffers, jax.tree.map(jnp.add, total, grads)), None


def normalizes(buffers: Buffers) -> bool:
    """Whether a trained network has BatchNorm, which keeps its statistics in the buffers."""
    return bool(jax.tree.leaves(buffers.get("stats", {})))


@functools.cache
def warn_of_norm(rows: int, batch: int) -> None:
    """Warns, once, that BatchNorm changes the gradient of GradCache."""
    logging.getLogger("jssl").warning(
        "config.grad_cache=True: BatchNorm takes its statistics from each micro-batch of %d "
        "examples, not from all %d, so that the gradient is not the whole batch's; it is without "
        "BatchNorm: a ViT as config.model, and norm=False and last_norm=False in its heads",
        rows,
        batch,
    )


def split_microbatches(batch: Tree, n: int) -> Tree:
    """Splits arrays [B, ...] into n strided micro-batches, [n, B/n, ...].

    The stride lets every device hold a part of each micro-batch.
    """
    return jax.tree.map(lambda x: x.reshape(len(x) // n, n, *x.shape[1:]).swapaxes(0, 1), batch)


def merge_microbatches(outputs: Tree, rows: int) -> Tree:
    """Merges outputs [n, rows * v, ...] to [B v, ...], in the order of the batch.

    The inverse of `split_microbatches`, for `v` consecutive rows of each example.
    """

    def merge(x: Array) -> Array:
        n = len(x)
        x = x.reshape(n, rows, -1, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(-1, *x.shape[3:])

    return jax.tree.map(merge, outputs)
