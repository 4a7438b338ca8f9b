"""BatchNorm over the global batch, or over parts of it."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def batch_norm(train: bool, dtype: DTypeLike, splits: int = 1) -> Callable[..., nn.Module]:
    """f(name=..., **fields) -> BatchNorm: eps 1e-5, running statistics .9 old + .1 batch.

    Args:
      train: use the statistics of the batch; False: the running statistics.
      dtype: of the output.
      splits: above 1, the batch is split into as many runs of adjacent rows, and each run has its
        own statistics. 1: the statistics are those of the global batch.
    """
    kind = partial(SplitBatchNorm, splits) if splits > 1 and train else nn.BatchNorm
    return partial(kind, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype)


class SplitBatchNorm(nn.Module):
    """BatchNorm as on `splits` machines that do not share statistics.

    x [B, ..., C] is split into runs of B / splits rows. Devices exchange no statistics if each
    device has whole runs. Running statistics are the means over the runs.

    MoCo (He et al. 2020, section 3.3) needs it, with shuffled keys: the statistics of a whole batch
    would reveal which key belongs to which query. The reference for one machine is the CIFAR-10
    notebook of facebookresearch/moco (SplitBatchNorm).
    """

    splits: int
    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        scale = self.param("scale", self.scale_init, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        runs = x.reshape(self.splits, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, runs.ndim - 1))
        mu = runs.mean(axes, keepdims=True)
        variance = jnp.maximum(jnp.square(runs).mean(axes, keepdims=True) - jnp.square(mu), 0)
        old = self.momentum
        new = 1 - self.momentum
        mean.value = old * mean.value + new * mu.reshape(self.splits, -1).mean(0)
        var.value = old * var.value + new * variance.reshape(self.splits, -1).mean(0)
        out = (runs - mu) * (lax.rsqrt(variance + self.epsilon) * scale) + bias
        return out.reshape(x.shape).astype(self.dtype)
