"""Optimizers by name, with the schedule, the clipping and the masks that papers state.

``config.optim`` is the keyword arguments of `build`. `no_decay` holds regular expressions over
parameter paths ("encoder/layer1_0/bn1/scale"); what matches gets no weight decay and, in LARS,
no trust ratio.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import ops
from jssl.config import UserError, call_with_section, suggest
from jssl.config.values import INT, Duration, Every, NonNegative, Positive, Range, Rate
from jssl.optim.muon import matched, muon

NAMES = ("sgd", "lars", "larc", "adamw", "lamb", "muon")
SCHEDULES = ("cosine", "constant")
PER_TENSOR = ("lars", "larc", "lamb")  # what they do depends on where a tensor ends
NO_DECAY = ("bias$", "scale$")
Patterns = tuple[str, ...]  # regular expressions over parameter paths
Factors = tuple[tuple[str, NonNegative], ...]  # pairs of a pattern and a number
Decay = Annotated[float, Range(0, also=(-1,))]


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
        raise UserError(f"optim.lr_scaling={lr_scaling!r} is unknown; {suggest(lr_scaling, rules)}")
    return lr * rules[lr_scaling]


def learning_rate(*, lr, lr_final, lr_scaling, warmup_steps, schedule, steps, batch_size):
    """step -> learning rate: linear warm-up from 0, then a half cosine to `lr_final`, which scales
    as `lr` does, or constant."""
    peak, last = (peak_lr(rate, lr_scaling, batch_size) for rate in (lr, lr_final))
    if schedule not in SCHEDULES:
        raise UserError(f"optim.schedule={schedule!r} is unknown; {suggest(schedule, SCHEDULES)}")
    if not 0 <= warmup_steps < max(steps, 1):
        raise UserError(f"optim.warmup_steps={warmup_steps} must be below steps={steps}; lower it")
    first = 0.0 if warmup_steps else peak
    if schedule == "constant":
        return optax.warmup_constant_schedule(first, peak, warmup_steps)
    return optax.warmup_cosine_decay_schedule(first, peak, warmup_steps, steps, last)


def lr_per_step(config) -> np.ndarray:
    """The learning rate of every step of a config, float32 [steps], for the log: asking a schedule
    during training would queue work on the device and wait for it."""
    keys = ("lr", "lr_final", "lr_scaling", "warmup_steps", "schedule")
    given = {key: config.optim[key] for key in keys}
    rate = learning_rate(**given, steps=config.steps, batch_size=config.batch_size)
    return np.asarray(jax.jit(jax.vmap(rate))(np.arange(config.steps)), np.float32)


def larc(rate, weight_decay, keep, trust, clip, momentum, nesterov) -> optax.GradientTransformation:
    """LARS with the momentum before the learning rate, as in NVIDIA apex's LARC and solo-learn's
    LARS: g = ratio * (g + decay * w), ratio = trust |w| / (|g| + decay |w|), only where `keep`.

    `clip`: no step is larger than plain SGD's, ratio = min(ratio / rate, 1).
    """

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(grads, state, params):
        now = rate(state.count)

        def scaled(g, w, adapts):
            if not adapts:
                return g
            size = jnp.linalg.norm(w.ravel())
            slope = jnp.linalg.norm(g.ravel())
            ratio = trust * size / (slope + weight_decay * size + 1e-8)
            ratio = jnp.minimum(ratio / jnp.maximum(now, 1e-12), 1) if clip else ratio
            return jnp.where((size > 0) & (slope > 0), ratio * (g + weight_decay * w), g)

        return jax.tree.map(scaled, grads, params, keep(params)), state._replace(
            count=state.count + 1
        )

    return optax.chain(
        optax.GradientTransformation(init, update), optax.sgd(rate, momentum, nesterov)
    )


def freeze_params(
    rule: Callable[[int], optax.GradientTransformation], patterns: tuple[str, ...], until: int
) -> optax.GradientTransformation:
    """An optimizer under which parameters stay exactly as they are for the first `until` updates,
    or for ever if `until` is -1; the others are updated from the start.

    While they stay, their gradients do not exist, as in DINO, iBOT and SwAV, whose code sets them
    to None (facebookresearch/dino utils.py:149, swav main_swav.py:328): no moment moves, no weight
    decays, and Adam's count, which corrects the bias of its moments, starts with their first
    update. The learning rate and the weight decay are those of the step all the same.

    Args:
      rule: (s) -> the optimizer whose schedules are `s` steps ahead of its own count.
      patterns: regular expressions over the parameters' paths.
      until: updates; -1: for ever (MoCo v3's patch projection, which has no state then).
    """
    free = mask(patterns)
    later = optax.set_to_zero() if until < 0 else gated(rule(until), until)

    def labels(params):
        return jax.tree.map(lambda is_free: "free" if is_free else "held", free(params))

    return optax.partition({"free": rule(0), "held": later}, labels)


def gated(tx: optax.GradientTransformation, until: int) -> optax.GradientTransformation:
    """`tx` that does nothing, to the parameters or to its own state, for `until` updates."""

    def init(params):
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update(grads, state, params):
        count, inner = state
        updates, moved = tx.update(grads, inner, params)
        still = count < until
        updates = jax.tree.map(lambda u: jnp.where(still, 0, u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(still, old, new), inner, moved)
        return updates, (count + 1, inner)

    return optax.GradientTransformation(init, update)


def dropped(patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Zero gradients where a path matches, so that no clipping by a global norm counts them."""
    free = mask(patterns)

    def zero(grads, params):
        def kept(g, is_free):
            return g if is_free else jnp.zeros_like(g)

        return jax.tree.map(kept, grads, free(grads))

    return optax.stateless(zero)


def ahead(schedule: Callable | float, steps: int) -> Callable | float:
    """A schedule `steps` steps ahead; a number stays itself."""
    if not callable(schedule) or steps == 0:
        return schedule
    return lambda count: schedule(count + steps)


def scale_updates(tx, rate, peak, factors, constant) -> optax.GradientTransformation:
    """`tx`, but the update of a parameter whose path matches a pattern of `factors` (pairs of
    pattern and number) is so many times larger, and the rate of one that matches a pattern of
    `constant` stays `peak` (exact where an update is proportional to the rate of its step)."""

    def init(params):
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update(grads, state, params):
        count, inner = state
        updates, inner = tx.update(grads, inner, params)
        steady = peak / jnp.maximum(rate(count), 1e-12)

        def one(path, u):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found = [factor for pattern, factor in factors if re.search(pattern, name)]
            found += [steady] if any(re.search(pattern, name) for pattern in constant) else []
            return u * math.prod(found) if found else u

        return jax.tree_util.tree_map_with_path(one, updates), (count + 1, inner)

    return optax.GradientTransformation(init, update)


def clip_per_tensor(limit: float) -> optax.GradientTransformation:
    """Every tensor's gradient to a norm of at most `limit` (DINO, utils.py clip_gradients)."""

    def clip(g):
        return g * jnp.minimum(1, limit / (jnp.linalg.norm(g.ravel()) + 1e-6))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def validate_patterns(tx, per_tensor, patterns: dict) -> optax.GradientTransformation:
    """`tx`, but a pattern that is no regular expression or matches no parameter is a `UserError`,
    and so are scanned layers, which are one tensor, under what treats each tensor by itself."""
    for key, found in patterns.items():
        for pattern in found:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise UserError(f"optim.{key}={pattern!r} is no pattern: {error}") from None

    def init(params):
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
        for key, found in patterns.items():
            for pattern in found:
                if not any(re.search(pattern, name) for name in names):
                    raise UserError(
                        f"optim.{key}={pattern!r} matches no parameter; {suggest(pattern, names)}"
                    )
        if per_tensor and any("/layers/" in name for name in names):
            raise UserError(
                f"optim: {per_tensor} takes scanned layers for one; set model.scan=False"
            )
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
    """The optax chain of ``config.optim``.

    sgd: L2 added to the gradient before momentum, as in PyTorch. lars: You et al. 2017 as in
    google-research/simclr lars_optimizer.py (momentum after the learning rate); larc: see `larc`.
    adamw: decoupled decay times the learning rate (Loshchilov & Hutter 2019). lamb: You et al.
    2020; what is excluded has no trust ratio, as in google-research/albert
    lamb_optimizer.py. muon: Jordan et al. 2024, for the hidden matrices that `muon_params` names;
    all else goes to AdamW (see `jssl.optim.muon`). weight_decay_final: the decay goes there in half
    a cosine (DINO); -1: it is constant. clip_norm: bounds the global gradient norm; 0: off.
    clip_norm_per_tensor: that of each parameter. lr_factors, lr_constant: see `scale_updates`.
    freeze, freeze_steps: see `freeze_params`; 0: off.
    """
    if name not in NAMES:
        raise UserError(f"optim.name={name!r} is unknown; {suggest(name, NAMES)}")
    rate = learning_rate(
        lr=lr,
        lr_final=lr_final,
        lr_scaling=lr_scaling,
        warmup_steps=warmup_steps,
        schedule=schedule,
        steps=steps,
        batch_size=batch_size,
    )
    keep = mask(no_decay)
    decay = weight_decay
    if weight_decay_final >= 0:
        if name in ("larc", "muon"):
            raise UserError(f"optim.weight_decay_final={weight_decay_final}: not with {name}; -1")

        def decay(step):
            return ops.cosine_schedule(step, steps, weight_decay, weight_decay_final)

    def rule(shift: int) -> optax.GradientTransformation:
        """The optimizer without clipping, its schedules `shift` steps ahead."""
        now = ahead(rate, shift)
        fade = ahead(decay, shift)
        decayed = optax.add_decayed_weights(fade, keep)
        if name == "sgd":
            tx = optax.chain(decayed, optax.sgd(now, momentum, nesterov))
        elif name == "lars":
            tx = optax.lars(
                now, fade, keep, trust_coefficient, 0.0, keep, momentum=momentum, nesterov=nesterov
            )
        elif name == "larc":
            tx = larc(now, fade, keep, trust_coefficient, trust_clip, momentum, nesterov)
        elif name == "adamw":
            tx = optax.adamw(now, b1, b2, eps, weight_decay=fade, mask=keep)
        elif name == "lamb":
            adapted = optax.masked(optax.scale_by_trust_ratio(), keep)
            adam = optax.scale_by_adam(b1, b2, eps)
            tx = optax.chain(adam, decayed, adapted, optax.scale_by_learning_rate(now))
        else:
            tx = muon(
                now,
                beta=momentum,
                weight_decay=fade,
                keep=keep,
                b1=b1,
                b2=b2,
                eps=eps,
                hidden=muon_params,
            )
        if lr_factors or lr_constant:
            tx = scale_updates(
                tx, now, peak_lr(lr, lr_scaling, batch_size), lr_factors, lr_constant
            )
        return tx

    if any(not isinstance(one, tuple) or len(one) != 2 for one in lr_factors):
        raise UserError(f"optim.lr_factors={lr_factors} must be pairs, as in (('bias$', 0.1),)")
    if (nesterov and name == "muon") or (trust_clip and name == "lars"):
        wrong = "nesterov" if nesterov and name == "muon" else "trust_clip"
        raise UserError(f"optim.{wrong}=True means nothing to {name}; set it to False")
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


def from_config(config) -> optax.GradientTransformation:
    """The optimizer of a whole config: its section, its steps and its batch size."""
    return call_with_section(
        build, config.optim, "optim", steps=config.steps, batch_size=config.batch_size
    )
