"""Optimizers by name, with the schedules, the clipping and the masks of the papers.

``config.optim`` is the keyword arguments of `build`. `no_decay` are regular expressions over
parameter paths ("encoder/layer1_0/bn1/scale"). A parameter that matches gets no weight decay and,
in LARS, no trust ratio.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated, Any, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import ops
from jssl.config import Config, ConfigError, UserError, call_with_section, plugins, suggest
from jssl.config.values import INT, Duration, Every, NonNegative, Positive, Range, Rate
from jssl.optim import outside
from jssl.optim.muon import matched, muon, path_name
from jssl.recipes import DEFAULTS, USED_BY

NAMES = ("sgd", "lars", "larc", "adamw", "lamb", "muon")
SCHEDULES = ("cosine", "constant")
PER_TENSOR = ("lars", "larc", "lamb")  # they use the norm of each tensor
NO_DECAY = ("bias$", "scale$")
Patterns = tuple[str, ...]  # regular expressions over parameter paths
Factors = tuple[tuple[str, NonNegative], ...]  # pairs of a pattern and a number
Decay = Annotated[float, Range(0, also=(-1,))]


def mask(exclude: Collection[str]) -> Callable[[Any], Any]:
    """params -> tree of bool: True where no pattern of `exclude` matches the parameter's path."""

    def keep(path, _):
        name = path_name(path)
        return not any(re.search(pattern, name) for pattern in exclude)

    return lambda params: jax.tree_util.tree_map_with_path(keep, params)


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
) -> optax.Schedule:
    """The schedule of the learning rate, step -> learning rate.

    It is a linear warm-up from 0 for `warmup_steps`, then half a cosine to `lr_final` ("cosine") or
    a constant ("constant"). `lr_final` is scaled as `lr` is, see `peak_lr`.

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
    return optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, steps, last)


def lr_per_step(config: Config) -> np.ndarray:
    """The learning rate of every step of a config, float32 [steps], for the log.

    The log does not call the schedule during training, because that would queue work on the device
    and wait for it.
    """
    keys = ("lr", "lr_final", "lr_scaling", "warmup_steps", "schedule")
    settings = {key: config.optim[key] for key in keys}
    rate = learning_rate(**settings, steps=config.steps, batch_size=config.batch_size)
    return np.asarray(jax.jit(jax.vmap(rate))(np.arange(config.steps)), np.float32)


def larc(
    rate: optax.Schedule,
    weight_decay: float,
    keep: Callable[[Any], Any],
    trust: float,
    clip: bool,
    momentum: float,
    nesterov: bool,
) -> optax.GradientTransformation:
    """LARS with the momentum before the learning rate: NVIDIA apex's LARC and solo-learn's LARS.

    g = ratio * (g + decay * w), with ratio = trust |w| / (|g| + decay |w|).

    Args:
      rate: the learning rate.
      weight_decay: the factor of L2 regularization.
      keep: params -> tree of bool, True for parameters that have a ratio and a decay.
      trust: the trust coefficient.
      clip: no step is larger than that of plain SGD, ratio = min(ratio / rate, 1).
      momentum, nesterov: of SGD.
    """

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        current_rate = rate(state.count)

        def scaled(g, w, is_adapted):
            if not is_adapted:
                return g
            w_norm = jnp.linalg.norm(w.ravel())
            g_norm = jnp.linalg.norm(g.ravel())
            ratio = trust * w_norm / (g_norm + weight_decay * w_norm + 1e-8)
            ratio = jnp.minimum(ratio / jnp.maximum(current_rate, 1e-12), 1) if clip else ratio
            return jnp.where((w_norm > 0) & (g_norm > 0), ratio * (g + weight_decay * w), g)

        updates = jax.tree.map(scaled, updates, params, keep(params))
        return updates, state._replace(count=state.count + 1)

    adapted = optax.GradientTransformation(init, update)
    return optax.chain(adapted, optax.sgd(rate, momentum, nesterov))


def freeze_params(
    rule: Callable[[int], optax.GradientTransformation], patterns: tuple[str, ...], until: int
) -> optax.GradientTransformation:
    """An optimizer that freezes some parameters for the first `until` updates.

    Frozen parameters have no gradient, as in DINO, iBOT and SwAV, whose code sets it to None
    (facebookresearch/dino utils.py:149, swav main_swav.py:328). Their moments do not move, and
    there is no weight decay. Adam's count, which corrects the bias of its moments, starts with
    their first update. Then the learning rate and the weight decay are those of the current step.

    Args:
      rule: (s) -> the optimizer whose schedules are `s` steps ahead of its own count.
      patterns: regular expressions over the paths of the parameters to freeze.
      until: updates; -1: always (MoCo v3's patch projection, which has no state then).
    """
    free = mask(patterns)
    later = optax.set_to_zero() if until < 0 else gated(rule(until), until)

    def labels(params):
        return jax.tree.map(lambda is_free: "free" if is_free else "held", free(params))

    return optax.partition({"free": rule(0), "held": later}, labels)


def gated(tx: optax.GradientTransformation, until: int) -> optax.GradientTransformation:
    """`tx` that changes neither the parameters nor its own state for the first `until` updates."""

    def init(params):
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update(updates, state, params=None):
        count, inner = state
        updates, new_inner = tx.update(updates, inner, params)
        is_frozen = count < until
        updates = jax.tree.map(lambda u: jnp.where(is_frozen, 0, u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(is_frozen, old, new), inner, new_inner)
        return updates, (count + 1, inner)

    return optax.GradientTransformation(init, update)


def dropped(patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Sets the gradients of the parameters that match to zero.

    A clipping by the global norm after it does not count them.
    """
    free = mask(patterns)

    def zero(grads, params):
        def kept(g, is_free):
            return g if is_free else jnp.zeros_like(g)

        return jax.tree.map(kept, grads, free(grads))

    return optax.stateless(zero)


@overload
def ahead(schedule: optax.Schedule, steps: int) -> optax.Schedule: ...
@overload
def ahead(schedule: float, steps: int) -> float: ...
def ahead(schedule: optax.Schedule | float, steps: int) -> optax.Schedule | float:
    """A schedule that is `steps` steps ahead; a number is returned unchanged."""
    if not callable(schedule) or steps == 0:
        return schedule
    return lambda count: schedule(count + steps)


def scale_updates(
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
    peak: float,
    factors: Sequence[tuple[str, float]],
    constant: Collection[str],
) -> optax.GradientTransformation:
    """`tx` with learning rates of their own for some parameters.

    Args:
      tx: the optimizer.
      rate: its learning rate.
      peak: the largest learning rate.
      factors: pairs of a pattern and a number. The updates of the parameters whose paths match the
        pattern are multiplied by the number.
      constant: patterns of parameters whose learning rate stays `peak`. That is exact where an
        update is proportional to the learning rate of its step.
    """

    def init(params):
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update(updates, state, params=None):
        count, inner = state
        updates, inner = tx.update(updates, inner, params)
        to_peak = peak / jnp.maximum(rate(count), 1e-12)

        def scaled(path, u):
            name = path_name(path)
            scales: list[Any] = [scale for pattern, scale in factors if re.search(pattern, name)]
            if any(re.search(pattern, name) for pattern in constant):
                scales.append(to_peak)
            return u * math.prod(scales) if scales else u

        return jax.tree_util.tree_map_with_path(scaled, updates), (count + 1, inner)

    return optax.GradientTransformation(init, update)


def clip_per_tensor(limit: float) -> optax.GradientTransformation:
    """Clips the gradient of each tensor to a norm of `limit` (DINO, utils.py clip_gradients)."""

    def clip(g):
        return g * jnp.minimum(1, limit / (jnp.linalg.norm(g.ravel()) + 1e-6))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def validate_patterns(
    tx: optax.GradientTransformation, per_tensor: str, patterns: dict[str, Sequence[str]]
) -> optax.GradientTransformation:
    """`tx` with checks of the patterns and of scanned layers.

    Args:
      tx: the optimizer.
      per_tensor: the name of an operation that treats each tensor separately, or "". Scanned layers
        are one tensor, so they are an error then.
      patterns: {key of ``config.optim``: its patterns}.

    Raises:
      UserError: a pattern is no regular expression; or, from `init`, a pattern matches no
        parameter, or layers are scanned.
    """
    for key, of_key in patterns.items():
        for pattern in of_key:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise UserError(
                    f"--config.optim.{key}={pattern!r}: no regular expression ({error}); correct it"
                ) from None

    def init(params):
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        names = [path_name(path) for path, _ in flat]
        for key, of_key in patterns.items():
            for pattern in of_key:
                if not any(re.search(pattern, name) for name in names):
                    raise ConfigError(
                        f"config.optim.{key}",
                        pattern,
                        "matches no parameter",
                        suggest(pattern, names),
                    )
        if per_tensor and any("/layers/" in name for name in names):
            problem = f"{per_tensor} takes scanned layers for one"
            raise ConfigError("config.model.scan", True, problem, "set it to False")
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)


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
    steps: int,
    batch_size: int,
) -> optax.GradientTransformation:
    """The optimizer of ``config.optim``.

    Args:
      name: optimizer: "sgd", "lars", "larc", "adamw", "lamb" or "muon". See `base_optimizer`.
      lr: peak learning rate, before lr_scaling.
      lr_final: learning rate at the end of schedule "cosine", before lr_scaling.
      lr_scaling: factor of lr for batch size B: "none", "linear" (B / 256) or "sqrt" (sqrt B). See
        `peak_lr`.
      warmup_steps: steps of linear warm-up from 0 to the peak; 0: none.
      schedule: after the warm-up: "cosine", to lr_final, or "constant". See `learning_rate`.
      weight_decay: weight decay; if weight_decay_final is not -1, that of step 0.
      weight_decay_final: weight decay at the last step, along half a cosine (DINO); -1: constant.
      no_decay: regular expressions of the parameters without weight decay and trust ratio. See the
        module.
      clip_norm: limit of the global norm of the gradient; 0: off.
      clip_norm_per_tensor: limit of the norm of each parameter's gradient; 0: off.
      lr_factors: pairs of a regular expression and a factor of the learning rate. See
        `scale_updates`.
      lr_constant: regular expressions of the parameters whose learning rate stays at the peak. See
        `scale_updates`.
      momentum: momentum of sgd, lars, larc and muon.
      nesterov: Nesterov momentum, for sgd, lars and larc.
      b1: decay rate of Adam's first moment, for adamw, lamb and muon (beta 1).
      b2: decay rate of Adam's second moment, for adamw, lamb and muon (beta 2).
      eps: Adam's epsilon, for adamw, lamb and muon.
      trust_coefficient: trust coefficient of lars and larc.
      trust_clip: larc takes no step larger than that of plain SGD. See `larc`.
      freeze: regular expressions of the parameters that freeze_steps freezes. See
        `freeze_params`.
      freeze_steps: number of first updates in which freeze applies; 0: none, -1: all.
      muon_params: regular expressions of the hidden kernels that muon updates. AdamW updates the
        others. See `jssl.optim.muon`.
      steps: of the run.
      batch_size: of an update, for `lr_scaling`.

    Raises:
      UserError: a value is wrong, or two values contradict each other.
    """
    if name not in NAMES and not plugins.is_outside(name):
        raise ConfigError("config.optim.name", name, "unknown", suggest(name, NAMES))
    rate = learning_rate(
        lr=lr,
        lr_final=lr_final,
        lr_scaling=lr_scaling,
        warmup_steps=warmup_steps,
        schedule=schedule,
        steps=steps,
        batch_size=batch_size,
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
        check_settings(name, settings)
    if schedule == "constant" and lr_final:
        raise ConfigError(
            "config.optim.lr_final", lr_final, "means nothing to schedule 'constant'", "set it to 0"
        )
    if freeze and not freeze_steps:
        raise ConfigError(
            "config.optim.freeze",
            freeze,
            "needs config.optim.freeze_steps, the number of steps",
            "set that (-1: for ever), or --config.optim.freeze=()",
        )
    check_pairs(lr_factors)
    decay = decay_schedule(weight_decay, weight_decay_final, steps)
    optimizer = partial(
        base_optimizer,
        name,
        keep=mask(no_decay),
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
        shifted_rate = ahead(rate, shift)
        tx = optimizer(shifted_rate, ahead(decay, shift))
        if lr_factors or lr_constant:
            peak = peak_lr(lr, lr_scaling, batch_size)
            tx = scale_updates(tx, shifted_rate, peak, lr_factors, lr_constant)
        return tx

    tx = freeze_params(rule, freeze, freeze_steps) if freeze_steps else rule(0)
    tx = matched(tx, muon_params) if name == "muon" else tx
    tx = optax.chain(clip_per_tensor(clip_norm_per_tensor), tx) if clip_norm_per_tensor else tx
    tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx
    tx = optax.chain(dropped(freeze), tx) if freeze_steps < 0 else tx
    per_tensor = name if name in PER_TENSOR else ""
    if not per_tensor and clip_norm_per_tensor:
        per_tensor = "clip_norm_per_tensor"
    patterns = {
        "no_decay": [pattern for pattern in no_decay if pattern not in NO_DECAY],
        "freeze": freeze if freeze_steps else (),
        "lr_factors": [pattern for pattern, _ in lr_factors],
        "lr_constant": lr_constant,
    }
    return validate_patterns(tx, per_tensor, patterns)


def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Raises `UserError` for a setting of another optimizer that is not at its default."""
    for key, value in settings.items():
        default = DEFAULTS["optim"][key]
        if name not in USED_BY[key] and value != default:
            raise ConfigError(
                f"config.optim.{key}", value, f"means nothing to {name}", f"set it to {default!r}"
            )


def check_pairs(lr_factors: Any) -> None:
    """Raises `UserError` unless all elements are pairs."""
    if any(not isinstance(pair, tuple) or len(pair) != 2 for pair in lr_factors):
        raise UserError(
            f"--config.optim.lr_factors={lr_factors}: must be pairs; try (('bias$', 0.1),)"
        )


def decay_schedule(first: float, last: float, steps: int) -> optax.Schedule | float:
    """Weight decay from `first` to `last` in half a cosine over `steps`; `first` if last is -1."""
    if last < 0:
        return first

    def decay(step: Any) -> jax.Array:
        return ops.cosine_schedule(step, steps, first, last)

    return decay


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
    larc  See `larc`.
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
        return larc(rate, decay, keep, trust_coefficient, trust_clip, momentum, nesterov)
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


def from_config(config: Config) -> optax.GradientTransformation:
    """The optimizer of a config: its section `optim`, its steps and its batch size."""
    return call_with_section(
        build, config.optim, "optim", steps=config.steps, batch_size=config.batch_size
    )
