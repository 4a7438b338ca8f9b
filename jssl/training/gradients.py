"""Gradients of an objective: of a whole batch, of micro-batches, by GradCache; and the guard that
skips an update that is not finite.
"""

import functools
import logging
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.config import UserError
from jssl.core import Batch, Method, Metrics, Objective, TrainState, Tree, apply_gradients


def minimize(
    objective: Objective,
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    grad_cache: bool = False,
) -> Method:
    """Objective + optimizer = Method.

    `accumulate` micro-batches run one after another. Buffers pass through them in order, and the
    mean gradient is applied once. The loss then compares only the examples of a micro-batch, unless
    `grad_cache` is set.
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

    def of_state(function):
        if function is None:
            return None
        return lambda state, *rest: function(state.params, state.buffers, *rest)

    return Method(
        init,
        train_step,
        embed=of_state(objective.embed),
        render=of_state(objective.render),
        token_nll=of_state(objective.token_nll),
        accumulate=accumulate,
        grad_cache=grad_cache,
        compares=objective.stages is not None,
    )


def skip_nonfinite(new, old, metrics, ok=None):
    """(state, metrics): `new`, or, where the update is not finite, `old` at the next step.

    `ok` bool []: whether the update is finite; None: whether loss and gradient are. `skipped` of
    the state counts such updates, in a row and in all; no transfer to the host is needed.
    `rollback` decides what then happens.
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
        "skipped_row": state.skipped[0].astype(jnp.float32),
        "skipped": state.skipped[1].astype(jnp.float32),
    }


def stays_finite(new, old):
    """bool []: whether every number of the state `new` is finite that was so in `old`."""

    def one(a, b):
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return True
        return jnp.all(jnp.isfinite(a) | ~jnp.isfinite(b))

    trees = [(state.params, state.opt_state, state.buffers) for state in (new, old)]
    return jnp.all(jnp.stack([jnp.asarray(x) for x in jax.tree.leaves(jax.tree.map(one, *trees))]))


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


def gradient_fn(objective, n: int, grad_cache: bool):
    """(state, batch, rng) -> ((loss, (buffers, metrics)), gradient), in n micro-batches."""
    if n < 1:
        raise UserError(f"config.accumulate={n} must be at least 1")
    if grad_cache and n == 1:
        raise UserError("config.grad_cache=True needs config.accumulate above 1; try 4")
    if grad_cache and not objective.stages:
        raise UserError(
            "config.grad_cache=True, but the method's loss is not split in two "
            "(jssl.core.split_objective); set it to False"
        )
    if n == 1:
        return lambda state, batch, rng: jax.value_and_grad(objective.loss, has_aux=True)(
            state.params, state, batch, rng
        )
    return partial(grad_cache_gradient if grad_cache else mean_gradient, objective, n=n)


def mean_gradient(objective, state, batch, rng, *, n: int):
    """(loss, (buffers, metrics)), gradient: means over n micro-batches, one at a time in memory."""
    gradient = jax.value_and_grad(objective.loss, has_aux=True)

    def micro(carry, part):
        buffers, total = carry
        now = state.replace(buffers=buffers)
        (some, key) = part
        (value, (buffers, metrics)), grads = gradient(state.params, now, some, key)
        return (buffers, jax.tree.map(jnp.add, total, grads)), (value, metrics)

    carry = (state.buffers, jax.tree.map(jnp.zeros_like, state.params))
    parts = (split_microbatches(batch, n), jax.random.split(rng, n))
    (buffers, total), (values, metrics) = jax.lax.scan(micro, carry, parts)
    mean = jax.tree.map(lambda m: m.mean(0), metrics)
    return (values.mean(), (buffers, mean)), jax.tree.map(lambda g: g / n, total)


def grad_cache_gradient(objective, state, batch, rng, *, n: int):
    """As `mean_gradient`, but the loss compares all examples of the batch: GradCache
    (Gao et al. 2021, arXiv 2101.06983, section 3.3).

    Encodes the micro-batches without gradient, differentiates the comparison of all their outputs,
    and encodes each anew to carry its part of that gradient back to the parameters. Only outputs,
    never activations, are held for the whole batch. Equal to the whole batch without BatchNorm.
    With it, statistics are each micro-batch's own and the gradient is another one (a layer's
    statistics depend on those of all layers before it, so that two passes do not find the batch's):
    a warning says so.
    """
    encode, compare = objective.stages
    rows = len(jax.tree.leaves(batch)[0]) // n
    if normalizes(state.buffers):
        warn_of_norm(rows, rows * n)
    rng_encode, rng_compare = jax.random.split(rng)
    parts = (split_microbatches(batch, n), jax.random.split(rng_encode, n))

    def forward(buffers, part):
        out, buffers = encode(state.params, state.replace(buffers=buffers), *part)
        return buffers, out

    buffers, outputs = jax.lax.scan(forward, state.buffers, parts)
    coupled = jax.value_and_grad(compare, (0, 1), has_aux=True)
    now = state.replace(buffers=buffers)
    found, (direct, cotangent) = coupled(
        state.params, merge_microbatches(outputs, rows), now, batch, rng_compare
    )

    def backward(carry, part):
        buffers, total = carry
        part, cotangent = part

        def again(params):
            return encode(params, state.replace(buffers=buffers), *part)

        _, pull, buffers = jax.vjp(again, state.params, has_aux=True)
        (grads,) = pull(cotangent)
        return (buffers, jax.tree.map(jnp.add, total, grads)), None

    carry = (state.buffers, direct)
    cotangents = jax.tree.map(
        lambda x: split_microbatches(x.reshape(rows * n, -1, *x.shape[1:]), n), cotangent
    )
    cotangents = jax.tree.map(lambda c, o: c.reshape(o.shape), cotangents, outputs)
    return found, jax.lax.scan(backward, carry, (parts, cotangents))[0][1]


def normalizes(buffers: dict) -> bool:
    """Whether a trained network has BatchNorm: whether a method's `buffers` hold its statistics."""
    return bool(jax.tree.leaves(buffers.get("stats", {})))


@functools.cache
def warn_of_norm(rows: int, batch: int) -> None:
    """Says, once, what BatchNorm makes of GradCache."""
    logging.getLogger("jssl").warning(
        "config.grad_cache=True: BatchNorm takes its statistics from each micro-batch of %d "
        "examples, not from all %d, so that the gradient is not the whole batch's; it is without "
        "BatchNorm: a ViT as config.model, and norm=False and last_norm=False in its heads",
        rows,
        batch,
    )


def split_microbatches(batch: Tree, n: int) -> Tree:
    """[B, ...] -> [n, B/n, ...]: n strided micro-batches, so that every device holds a part of
    each."""
    return jax.tree.map(lambda x: x.reshape(len(x) // n, n, *x.shape[1:]).swapaxes(0, 1), batch)


def merge_microbatches(outputs, rows: int):
    """The inverse of `split_microbatches` for outputs [n, rows * v, ...], v in a row of each
    example: [B v, ...] in the order of the batch."""

    def one(x):
        n = len(x)
        x = x.reshape(n, rows, -1, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(-1, *x.shape[3:])

    return jax.tree.map(one, outputs)
