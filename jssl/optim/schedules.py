"""Schedules of the learning rate and of the weight decay."""

from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import ops
from jssl.config import Config, ConfigError, suggest

SCHEDULES = ("cosine", "linear", "constant", "steps")


def peak_lr(lr: float, lr_scaling: str, batch_size: int) -> float:
    """The peak learning rate for a batch of B examples.

    `lr_scaling` "none" is ``lr``, "linear" is ``lr * B / 256`` (Goyal et al. 2017), and "sqrt" is
    ``lr * sqrt(B)`` (SimCLR, appendix B.1, 0.075 * sqrt(B)).

    Raises:
      UserError: `lr_scaling` is not known.
    """
    rules = {"none": 1.0, "linear": batch_size / 256, "sqrt": batch_size**0.5}
    if lr_scaling not in rules:
        raise ConfigError(
            "config.optim.lr_scaling", lr_scaling, "unknown", suggest(lr_scaling, rules)
        )
    return lr * rules[lr_scaling]


def learning_rate(
    *,
    lr: float,
    lr_final: float,
    lr_scaling: str,
    warmup_steps: int,
    schedule: str,
    steps: int,
    batch_size: int,
    drop_at: tuple[float, ...] = (),
    drop_factor: float = 0.1,
) -> optax.Schedule:
    """The schedule of the learning rate, step -> learning rate.

    It is a linear warm-up from 0 for `warmup_steps`. After it, "cosine" is half a cosine to
    `lr_final`, "linear" a straight line to it, "constant" is constant, and "steps" is multiplied by
    `drop_factor` at each of `drop_at`, which are shares of all steps. `lr_final` is scaled as `lr`
    is, see `peak_lr`.

    Raises:
      UserError: a name is not known, or the warm-up is not shorter than the run.
    """
    peak = peak_lr(lr, lr_scaling, batch_size)
    last = peak_lr(lr_final, lr_scaling, batch_size)
    if schedule not in SCHEDULES:
        raise ConfigError(
            "config.optim.schedule", schedule, "unknown", suggest(schedule, SCHEDULES)
        )
    if not 0 <= warmup_steps < max(steps, 1):
        raise ConfigError(
            "config.optim.warmup_steps",
            warmup_steps,
            f"must be below steps={steps}",
            "lower it, or give it as a share: '5 percent'",
        )
    first = 0.0 if warmup_steps else peak
    if schedule == "constant":
        return optax.warmup_constant_schedule(first, peak, warmup_steps)
    if schedule == "steps":
        return drop(
            optax.warmup_constant_schedule(first, peak, warmup_steps),
            [round(share * steps) for share in drop_at],
            drop_factor,
        )
    if schedule == "linear":
        warmup = optax.linear_schedule(first, peak, warmup_steps)
        fall = optax.linear_schedule(peak, last, steps - warmup_steps)
        return optax.join_schedules([warmup, fall], [warmup_steps])
    return optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, steps, last)


def drop(schedule: optax.Schedule, boundaries: Sequence[int], factor: float) -> optax.Schedule:
    """The schedule times `factor` for each of `boundaries` that a step has reached."""

    def dropped(step: Any) -> jax.Array:
        count = jnp.sum(jnp.asarray(step) >= np.asarray(boundaries, np.int32))
        return schedule(step) * jnp.float32(factor) ** count

    return dropped


def lr_per_step(config: Config) -> np.ndarray:
    """The learning rate of every step of a config, float32 [steps], for the log.

    The log does not call the schedule during training, because that would queue work on the device
    and wait for it.
    """
    keys = ("lr", "lr_final", "lr_scaling", "warmup_steps", "schedule", "drop_at", "drop_factor")
    settings = {key: config.optim[key] for key in keys}
    rate = learning_rate(**settings, steps=config.steps, batch_size=config.batch_size)
    return np.asarray(jax.jit(jax.vmap(rate))(np.arange(config.steps)), np.float32)


def decay_schedule(first: float, last: float, steps: int) -> optax.Schedule | float:
    """Weight decay from `first` to `last` in half a cosine over `steps`; `first` if last is -1."""
    if last < 0:
        return first

    def decay(step: Any) -> jax.Array:
        return ops.cosine_schedule(step, steps, first, last)

    return decay


@overload
def ahead(schedule: optax.Schedule, steps: int) -> optax.Schedule: ...
@overload
def ahead(schedule: float, steps: int) -> float: ...
def ahead(schedule: optax.Schedule | float, steps: int) -> optax.Schedule | float:
    """A schedule that is `steps` steps ahead; a number is returned unchanged."""
    if not callable(schedule) or steps == 0:
        return schedule
    return lambda count: schedule(count + steps)
