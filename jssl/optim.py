"""Optimizers by name, with the schedule, the clipping and the masks that papers state.

``config.optim`` is the keyword arguments of `build`. `exclude` holds regular expressions over
parameter paths ("encoder/layer1_0/bn1/scale"); what matches gets no weight decay and, in LARS,
no trust ratio.
"""

import re

import jax
import numpy as np
import optax

from jssl.config import UserError, bind, near

NAMES = ("sgd", "lars", "adamw", "lamb", "muon")
SCHEDULES = ("cosine", "constant")


def mask(exclude):
    """params -> tree of bool: True where no pattern of `exclude` matches the parameter's path."""

    def keep(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not any(re.search(pattern, name) for pattern in exclude)

    return lambda params: jax.tree_util.tree_map_with_path(keep, params)


def peak_lr(lr: float, lr_scaling: str, batch_size: int) -> float:
    """`lr` as it is ("none"), or given per 256 examples: ``lr * B / 256`` ("linear"; Goyal et al.
    2017) or ``lr * sqrt(B)`` ("sqrt"; SimCLR appendix B.1, 0.075 * sqrt(B))."""
    rules = {"none": 1.0, "linear": batch_size / 256, "sqrt": batch_size**0.5}
    if lr_scaling not in rules:
        raise UserError(f"optim.lr_scaling={lr_scaling!r} is unknown; {near(lr_scaling, rules)}")
    return lr * rules[lr_scaling]


def learning_rate(*, lr, lr_scaling, warmup_steps, schedule, steps, batch_size):
    """step -> learning rate: linear warm-up from 0, then a half cosine to 0, or constant."""
    peak = peak_lr(lr, lr_scaling, batch_size)
    if schedule not in SCHEDULES:
        raise UserError(f"optim.schedule={schedule!r} is unknown; {near(schedule, SCHEDULES)}")
    if not 0 <= warmup_steps < max(steps, 1):
        raise UserError(f"optim.warmup_steps={warmup_steps} must be below steps={steps}; lower it")
    first = 0.0 if warmup_steps else peak
    if schedule == "constant":
        return optax.warmup_constant_schedule(first, peak, warmup_steps)
    return optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, steps)


def all_rates(config) -> np.ndarray:
    """The learning rate of every step of a config, float32 [steps], for the log: asking a schedule
    during training would queue work on the device and wait for it."""
    keys = ("lr", "lr_scaling", "warmup_steps", "schedule")
    given = {key: config.optim[key] for key in keys}
    rate = learning_rate(**given, steps=config.steps, batch_size=config.batch_size)
    return np.asarray(jax.jit(jax.vmap(rate))(np.arange(config.steps)), np.float32)


def build(
    *, name: str, lr: float, lr_scaling: str, warmup_steps: int, schedule: str,
    weight_decay: float, exclude: tuple, clip: float, momentum: float, nesterov: bool,
    b1: float, b2: float, eps: float, trust: float, steps: int, batch_size: int,
) -> optax.GradientTransformation:  # fmt: skip
    """The optax chain of ``config.optim``.

    sgd: L2 added to the gradient before momentum, as in PyTorch. lars: You et al. 2017 as in
    google-research/simclr lars_optimizer.py (momentum after the learning rate). adamw: decoupled
    decay times the learning rate (Loshchilov & Hutter 2019). lamb: You et al. 2020. muon: Jordan
    2024, for matrices; other shapes go to its Adam. `clip` bounds the global gradient norm; 0: off.
    """
    if name not in NAMES:
        raise UserError(f"optim.name={name!r} is unknown; {near(name, NAMES)}")
    rate = learning_rate(
        lr=lr, lr_scaling=lr_scaling, warmup_steps=warmup_steps, schedule=schedule,
        steps=steps, batch_size=batch_size,
    )  # fmt: skip
    keep = mask(exclude)
    chains = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay, keep), optax.sgd(rate, momentum, nesterov)
        ),
        "lars": lambda: optax.lars(
            rate, weight_decay, keep, trust, 0.0, keep, momentum=momentum, nesterov=nesterov
        ),
        "adamw": lambda: optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=keep),
        "lamb": lambda: optax.lamb(rate, b1, b2, eps, weight_decay=weight_decay, mask=keep),
        "muon": lambda: optax.contrib.muon(
            rate, beta=momentum, eps=eps, weight_decay=weight_decay, weight_decay_mask=keep,
            adam_b1=b1, adam_b2=b2,
        ),
    }  # fmt: skip
    tx = chains[name]()
    return optax.chain(optax.clip_by_global_norm(clip), tx) if clip else tx


def from_config(config) -> optax.GradientTransformation:
    """The optimizer of a whole config: its section, its steps and its batch size."""
    return bind(build, config.optim, "optim", steps=config.steps, batch_size=config.batch_size)
