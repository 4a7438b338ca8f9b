"""Weights of several losses: fixed, by uncertainty, or by GradNorm.

`uncertainty` is "Multi-Task Learning Using Uncertainty to Weigh Losses" (Kendall, Gal, Cipolla;
CVPR 2018; arXiv 1705.07115), equation 7, with s = log sigma^2: the total is the sum of
exp(-s) L + s / 2. `LARGEST` bounds s, which runs away if a loss is near 0 or below.

`gradnorm` is "GradNorm: Gradient Normalization for Adaptive Loss Balancing" (Chen, Badrinarayanan,
Lee, Rabinovich; ICML 2018; arXiv 1711.02257), algorithm 1. Differences: the norms are of the
gradient of the whole encoder, not of its last layer; the weights follow by plain gradient descent,
on gradients that are divided by the mean norm, so that their rate does not depend on the losses.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jssl.core import Buffers, Params

LARGEST = 4.0  # of |s|: a loss is weighted by e**-4 to e**4
LEAST = 0.01  # smallest weight of GradNorm

Scalars = dict[str, Array]  # {task: float32 []}


class Balance(NamedTuple):
    """How the losses of several tasks are weighted.

    Attributes:
      kind: "fixed", "uncertainty" or "gradnorm".
      weights: {task: weight}; with "gradnorm", where the weights start.
      alpha: of GradNorm: how much faster a task learns that is behind.
      lr: of GradNorm's weights.
    """

    kind: str
    weights: dict[str, float]
    alpha: float
    lr: float

    def params(self) -> Params:
        """{"balance": {task: s}} with "uncertainty", else {}."""
        if self.kind != "uncertainty":
            return {}
        return {"balance": {task: jnp.zeros(()) for task in self.weights}}

    def buffers(self) -> Buffers:
        """{"balance": weights and first losses} with "gradnorm", else {}."""
        if self.kind != "gradnorm":
            return {}
        total = sum(self.weights.values())
        scaled = {task: w * len(self.weights) / total for task, w in self.weights.items()}
        weights = {task: jnp.asarray(w, jnp.float32) for task, w in scaled.items()}
        return {"balance": {"weights": weights, "first": dict.fromkeys(weights, jnp.zeros(()))}}

    def factors(self, params: Params, buffers: Buffers) -> dict[str, Array | float]:
        """{task: the factor of its loss and gradient}."""
        if self.kind == "gradnorm":
            return dict(buffers["balance"]["weights"])
        if self.kind == "uncertainty":
            return {
                task: weight * jnp.exp(-bounded(params["balance"][task]))
                for task, weight in self.weights.items()
            }
        return dict(self.weights)

    def gradient(self, params: Params, losses: Scalars) -> Params:
        """The gradient of `params`: {"balance": {task: d total / d s}}, or {}."""
        if self.kind != "uncertainty":
            return {}
        factors = self.factors(params, {})
        found = {}
        for task, loss in losses.items():
            s = params["balance"][task]
            slope = 0.5 - factors[task] * loss
            outward = (jnp.abs(s) >= LARGEST) & (slope * s < 0)  # descent would leave the bounds
            found[task] = jnp.where(outward, 0.0, slope)
        return {"balance": found}

    def total(self, params: Params, factors: Mapping[str, Array | float], losses: Scalars) -> Array:
        """The loss of all tasks, float32 []; see the module."""
        total = jnp.zeros(())
        for task, loss in losses.items():
            total = total + factors[task] * loss
            if self.kind == "uncertainty":
                total = total + bounded(params["balance"][task]) / 2
        return total

    def updated(self, buffers: Buffers, losses: Scalars, norms: Scalars, step: Array) -> Buffers:
        """The next {"balance": ...} of the buffers; {} but for "gradnorm".

        Args:
          buffers: of the state.
          losses: the loss of each task.
          norms: the norm of the gradient of each loss in the encoder.
          step: int32 [], updates done; at 0 the first losses are stored.
        """
        if self.kind != "gradnorm":
            return {}
        old = buffers["balance"]
        first = {t: jnp.where(step == 0, losses[t], old["first"][t]) for t in losses}
        rates = {task: losses[task] / jnp.where(first[task] == 0, 1, first[task]) for task in first}
        mean_rate = sum(rates.values()) / len(rates)
        weighted = {task: old["weights"][task] * norms[task] for task in norms}
        mean_norm = sum(weighted.values()) / len(weighted)
        new = {}
        for task, w in old["weights"].items():
            relative = jnp.maximum(rates[task] / mean_rate, 0.0)
            target = mean_norm * relative**self.alpha
            slope = jnp.sign(weighted[task] - target) * norms[task] / (mean_norm + 1e-12)
            new[task] = jnp.maximum(w - self.lr * slope, LEAST)
        total = sum(new.values())
        weights = {task: w * len(new) / total for task, w in new.items()}
        return {"balance": {"weights": weights, "first": first}}


def bounded(s: Array) -> Array:
    """s within +-`LARGEST`."""
    return jnp.clip(s, -LARGEST, LARGEST)
