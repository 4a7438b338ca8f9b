"""BatchNorm over the global batch, or over parts of it."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax


def batch_norm(train: bool, dtype, splits: int = 1):
    """A BatchNorm to be called with its name: eps 1e-5, running statistics .9 old + .1 batch.

    Over the global batch, or, with `splits` above 1, over each of so many runs of rows by itself.
    """
    kind = partial(SplitBatchNorm, splits) if splits > 1 and train else nn.BatchNorm
    return partial(kind, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype)


class SplitBatchNorm(nn.Module):
    """BatchNorm as on `splits` machines that do not share statistics: x [B, ..., C] in runs of
    B / splits rows. One machine is enough, and no statistics cross devices if each holds whole
    runs. Running statistics are the means over the runs.

    MoCo (He et al. 2020, section 3.3) needs it, with shuffled keys: over a whole batch the
    statistics would tell which key belongs to which query. The reference's own one-machine form is
    the CIFAR-10 notebook of facebookresearch/moco (SplitBatchNorm).
    """

    splits: int
    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: jnp.dtype
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
