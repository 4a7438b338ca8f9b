"""Gradient transformations of the papers that optax does not have."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl.optim.muon import path_name


def mask(exclude: Collection[str]) -> Callable[[Any], Any]:
    """params -> tree of bool: True where no pattern of `exclude` matches the parameter's path."""

    def keep(path, _):
        name = path_name(path)
        return not any(re.search(pattern, name) for pattern in exclude)

    return lambda params: jax.tree_util.tree_map_with_path(keep, params)


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
