"""Optimizers by name, with the schedules, the clipping and the masks of the papers.

``config.optim`` is the keyword arguments of `build`. `no_decay` are regular expressions over
parameter paths ("encoder/layer1_0/bn1/scale"). A parameter that matches gets no weight decay and,
in LARS, no trust ratio.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import optax

from jssl.config import Config, ConfigError, UserError, call_with_section, plugins, suggest
from jssl.config.values import (
    INT,
    Duration,
    Every,
    Length,
    NonNegative,
    Part,
    Positive,
    Range,
    Rate,
)
from jssl.optim import checks, layers, outside, schedules, transforms
from jssl.optim.muon import matched, muon

DISCRIMINATOR = "optim_discriminator"  # the section of the second optimizer of two players
NAMES = ("sgd", "lars", "larc", "adamw", "lamb", "muon")
PER_TENSOR = ("lars", "larc", "lamb")  # they use the norm of each tensor
NO_DECAY = ("bias$", "scale$")
Patterns = tuple[str, ...]  # regular expressions over parameter paths
Factors = tuple[tuple[str, NonNegative], ...]  # pairs of a pattern and a number
Decay = Annotated[float, Range(0, also=(-1,))]


def build(
    *,
    name: str,
    lr: NonNegative,
    lr_final: NonNegative,
    lr_scaling: str,
    warmup_steps: Every,
    schedule: str,
    weight_decay: NonNegative,
    weight_decay_final: Decay,
    no_decay: Patterns,
    clip_norm: NonNegative,
    clip_norm_per_tensor: NonNegative,
    lr_factors: Factors,
    lr_constant: Patterns,
    momentum: Rate,
    nesterov: bool,
    b1: Rate,
    b2: Rate,
    eps: Positive,
    trust_coefficient: Positive,
    trust_clip: bool,
    freeze: Patterns,
    freeze_steps: Annotated[int, Range(-1, INT), Duration()],
    muon_params: Patterns,
    layer_decay: Annotated[float, Range(0.001, 1)] = 1.0,
    drop_at: Annotated[tuple[Part, ...], Length(0, ordered=True)] = (),
    drop_factor: Part = 0.1,
    steps: int,
    batch_size: int,
) -> optax.GradientTransformation:
    """The optimizer of ``config.optim``.

    Args:
      name: optimizer: "sgd", "lars", "larc", "adamw", "lamb" or "muon". See `base_optimizer`.
      lr: peak learning rate, before lr_scaling.
      lr_final: learning rate at the end of schedules "cosine" and "linear", before lr_scaling.
      lr_scaling: factor of lr for batch size B: "none", "linear" (B / 256) or "sqrt" (sqrt B). See
        `schedules.peak_lr`.
      warmup_steps: steps of linear warm-up from 0 to the peak; 0: none.
      schedule: after the warm-up: "cosine" or "linear", to lr_final, "constant", or "steps", with
        drop_at. See `schedules.learning_rate`.
      weight_decay: weight decay; if weight_decay_final is not -1, that of step 0.
      weight_decay_final: weight decay at the last step, along half a cosine (DINO); -1: constant.
      no_decay: regular expressions of the parameters without weight decay and trust ratio. See the
        module.
      clip_norm: limit of the global norm of the gradient; 0: off.
      clip_norm_per_tensor: limit of the norm of each parameter's gradient; 0: off.
      lr_factors: pairs of a regular expression and a factor of the learning rate. See
        `transforms.scale_updates`.
      lr_constant: regular expressions of the parameters whose learning rate stays at the peak. See
        `transforms.scale_updates`.
      momentum: momentum of sgd, lars, larc and muon.
      nesterov: Nesterov momentum, for sgd, lars and larc.
      b1: decay rate of Adam's first moment, for adamw, lamb and muon (beta 1).
      b2: decay rate of Adam's second moment, for adamw, lamb and muon (beta 2).
      eps: Adam's epsilon, for adamw, lamb and muon.
      trust_coefficient: trust coefficient of lars and larc.
      trust_clip: larc takes no step larger than that of plain SGD. See `transforms.larc`.
      freeze: regular expressions of the parameters that freeze_steps freezes. See
        `transforms.freeze_params`.
      freeze_steps: number of first updates in which freeze applies; 0: none, -1: all.
      muon_params: regular expressions of the hidden kernels that muon updates. AdamW updates the
        others. See `jssl.optim.muon`.
      layer_decay: factor of the rate from each layer of the encoder to the one below; 1.0: off.
        See `jssl.optim.layers`.
      drop_at: shares of the run at which schedule "steps" lowers the learning rate. They ascend, as
        in (0.5, 0.75).
      drop_factor: factor of the learning rate at each of drop_at.
      steps: of the run.
      batch_size: of an update, for `lr_scaling`.

    Raises:
      UserError: a value is wrong, or two values contradict each other.
    """
    if name not in NAMES and not plugins.is_outside(name):
        raise ConfigError("config.optim.name", name, "unknown", suggest(name, NAMES))
    rate = schedules.learning_rate(
        lr=lr,
        lr_final=lr_final,
        lr_scaling=lr_scaling,
        warmup_steps=warmup_steps,
        schedule=schedule,
        steps=steps,
        batch_size=batch_size,
        drop_at=drop_at,
        drop_factor=drop_factor,
    )
    settings = {
        "momentum": momentum,
        "nesterov": nesterov,
        "b1": b1,
        "b2": b2,
        "eps": eps,
        "trust_coefficient": trust_coefficient,
        "trust_clip": trust_clip,
        "muon_params": muon_params,
        "weight_decay_final": weight_decay_final,
    }
    if not plugins.is_outside(name):
        checks.check_settings(name, settings)
    checks.check_schedule(schedule, lr_final, drop_at, drop_factor)
    checks.check_freeze(freeze, freeze_steps)
    checks.check_pairs(lr_factors)
    decay = schedules.decay_schedule(weight_decay, weight_decay_final, steps)
    optimizer = partial(
        base_optimizer,
        name,
        keep=transforms.mask(no_decay),
        momentum=momentum,
        nesterov=nesterov,
        b1=b1,
        b2=b2,
        eps=eps,
        trust_coefficient=trust_coefficient,
        trust_clip=trust_clip,
        muon_params=muon_params,
    )

    def rule(shift: int) -> optax.GradientTransformation:
        """The optimizer without clipping, with schedules that are `shift` steps ahead."""
        shifted_rate = schedules.ahead(rate, shift)
        tx = optimizer(shifted_rate, schedules.ahead(decay, shift))
        if lr_factors or lr_constant:
            peak = schedules.peak_lr(lr, lr_scaling, batch_size)
            tx = transforms.scale_updates(tx, shifted_rate, peak, lr_factors, lr_constant)
        return tx

    tx = transforms.freeze_params(rule, freeze, freeze_steps) if freeze_steps else rule(0)
    if name == "muon":
        tx = matched(tx, muon_params)
    if clip_norm_per_tensor:
        tx = optax.chain(transforms.clip_per_tensor(clip_norm_per_tensor), tx)
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    if freeze_steps < 0:
        tx = optax.chain(transforms.dropped(freeze), tx)
    if layer_decay < 1:
        tx = optax.chain(tx, layers.decay_layers(layer_decay))
    per_tensor = name if name in PER_TENSOR else ""
    if not per_tensor and clip_norm_per_tensor:
        per_tensor = "clip_norm_per_tensor"
    patterns = {
        "no_decay": [pattern for pattern in no_decay if pattern not in NO_DECAY],
        "freeze": freeze if freeze_steps else (),
        "lr_factors": [pattern for pattern, _ in lr_factors],
        "lr_constant": lr_constant,
    }
    return checks.validate_patterns(tx, per_tensor, patterns)


def base_optimizer(
    name: str,
    rate: optax.Schedule,
    decay: optax.Schedule | float,
    *,
    keep: Callable[[Any], Any],
    momentum: float,
    nesterov: bool,
    b1: float,
    b2: float,
    eps: float,
    trust_coefficient: float,
    trust_clip: bool,
    muon_params: tuple[str, ...],
) -> optax.GradientTransformation:
    """The optimizer of this name, without clipping.

    sgd   L2 is added to the gradient before momentum, as in PyTorch.
    lars  You et al. 2017, as in google-research/simclr lars_optimizer.py: momentum comes after the
          learning rate.
    larc  See `transforms.larc`.
    adamw Decay is decoupled, times the learning rate (Loshchilov & Hutter 2019).
    lamb  You et al. 2020. Parameters without decay have no trust ratio, as in
          google-research/albert lamb_optimizer.py.
    muon  Jordan et al. 2024, for the hidden matrices that `muon_params` matches, and AdamW for all
          other parameters (see `jssl.optim.muon`).

    Args:
      name: one of `NAMES`, or a dotted name (`jssl.optim.outside`).
      rate: the learning rate.
      decay: the weight decay; a number for larc and muon.
      keep: params -> tree of bool, True for parameters that decay.
      momentum, nesterov: of sgd, lars and larc; muon has the momentum only.
      b1, b2, eps: of adamw, lamb and muon.
      trust_coefficient: of lars and larc.
      trust_clip: of larc.
      muon_params: patterns, for muon.
    """
    if plugins.is_outside(name):
        own = {"momentum": momentum, "nesterov": nesterov, "b1": b1, "b2": b2, "eps": eps}
        return outside.build(name, rate, decay, keep, **own)
    if name == "sgd":
        l2 = optax.add_decayed_weights(decay, keep)
        return optax.chain(l2, optax.sgd(rate, momentum, nesterov))
    if name == "lars":
        return optax.lars(
            rate, decay, keep, trust_coefficient, 0.0, keep, momentum=momentum, nesterov=nesterov
        )
    if name == "adamw":
        return optax.adamw(rate, b1, b2, eps, weight_decay=decay, mask=keep)
    if name == "lamb":
        return optax.chain(
            optax.scale_by_adam(b1, b2, eps),
            optax.add_decayed_weights(decay, keep),
            optax.masked(optax.scale_by_trust_ratio(), keep),
            optax.scale_by_learning_rate(rate),
        )
    assert not callable(decay), "`build` refuses a schedule for larc and muon"
    if name == "larc":
        return transforms.larc(rate, decay, keep, trust_coefficient, trust_clip, momentum, nesterov)
    return muon(
        rate,
        beta=momentum,
        weight_decay=decay,
        keep=keep,
        b1=b1,
        b2=b2,
        eps=eps,
        hidden=muon_params,
    )


def for_discriminator(config: Config) -> Config:
    """The config with the keys of its section `optim_discriminator`, if any, in `optim`."""
    own = dict(config.optim_discriminator) if DISCRIMINATOR in config else {}
    return config.changed({f"optim.{key}": value for key, value in own.items()})


def of_two_players(config: Config) -> dict[str, optax.GradientTransformation]:
    """{"discriminator": optimizer, "generator": optimizer} of a config.

    The section `optim` describes both. The section `optim_discriminator`, if there is one, changes
    keys of it for the discriminator. Patterns of parameters must match those of their player.

    Raises:
      UserError: as `build` does; the message names the section that has the key.
    """
    try:
        discriminator = from_config(for_discriminator(config))
    except UserError as error:
        text = str(error)
        for key in dict(config.optim_discriminator) if DISCRIMINATOR in config else ():
            text = re.sub(rf"config\.optim\.{key}\b", f"config.{DISCRIMINATOR}.{key}", text)
        raise UserError(text) from None
    return {"discriminator": discriminator, "generator": from_config(config)}


def from_config(config: Config) -> optax.GradientTransformation:
    """The optimizer of a config: its section `optim`, its steps and its batch size."""
    return call_with_section(
        build, config.optim, "optim", steps=config.steps, batch_size=config.batch_size
    )
