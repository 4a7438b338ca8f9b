"""Spectral normalization, and the layers that have it.

"Spectral Normalization for Generative Adversarial Networks" (Miyato, Kataoka, Koyama, Yoshida;
ICLR 2018; arXiv 1802.05957), algorithm 1: a weight is divided by an estimate of its largest
singular value. The estimate is one step of the power method from a vector u, which a training pass
replaces by its next value. No gradient flows through u and v.

The vector is in the collection "batch_stats", so that it is in the buffers with the statistics of
BatchNorm. An evaluation pass takes the step too, as BigGAN-PyTorch (layers.py) does, and keeps the
old vector. (`torch.nn.utils.spectral_norm` takes no step there.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jssl.nn.products import convolution, dot_general
from jssl.ops import require_arrays

EPS = 1e-6  # of the norms of u and v: the value of BigGAN at 128 pixels
INITIALIZERS = {
    "orthogonal": nn.initializers.orthogonal(),
    "normal002": nn.initializers.normal(0.02),
    "xavier": nn.initializers.xavier_uniform(),
}


def spectral_norm(kernel: Array, u: Array) -> tuple[Array, Array]:
    """Divides a kernel by its largest singular value, as one step of the power method estimates it.

    Args:
      kernel: float [..., K]; it counts as a matrix with the rows [...].
      u: float [K], of any norm.

    Returns:
      (the normalized kernel, the next u, a unit vector).
    """
    require_arrays(kernel=(kernel, "float [..., K]"), u=(u, "float [K]"))
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed = lax.stop_gradient(matrix)
    v = _unit(_product(fixed, u))
    u = _unit(_product(v, fixed))
    return kernel / _product(v, _product(matrix, u)), u


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), EPS)


class Layer(nn.Module):
    """The base of the layers: a kernel, which may be spectrally normalized.

    Attributes:
      features: width of the output.
      train: a training pass, which keeps the next vector u.
      spectral: normalize the kernel.
      initializer: of the kernel.
      dtype: of the products; the kernel and its normalization are float32.
      use_bias: add a bias, which starts at 0.
    """

    features: int
    train: bool
    spectral: bool
    initializer: Callable
    dtype: DTypeLike
    use_bias: bool = True

    def weight(self, *rows: int) -> Array:
        """The kernel [*rows, features] in `dtype`."""
        kernel = self.param("kernel", self.initializer, (*rows, self.features))
        if self.spectral:
            u = self.variable(
                "batch_stats",
                "u",
                lambda: jax.random.normal(self.make_rng("params"), (self.features,)),
            )
            kernel, new = spectral_norm(kernel, u.value)
            if self.train:
                u.value = new
        return kernel.astype(self.dtype)

    def shifted(self, x: Array) -> Array:
        """x with the bias."""
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(self.dtype)


class Conv(Layer):
    """A convolution with stride 1 and zeros around: [B, H, W, C] -> [B, H, W, features]."""

    size: int = 3  # of the kernel, in pixels

    @nn.compact
    def __call__(self, x: Array) -> Array:
        pad = self.size // 2
        y = convolution(
            x.astype(self.dtype),
            self.weight(self.size, self.size, x.shape[-1]),
            (1, 1),
            [(pad, pad), (pad, pad)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return self.shifted(y)


class Dense(Layer):
    """A matrix product: [..., C] -> [..., features]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.weight(x.shape[-1])
        return self.shifted(
            dot_general(x.astype(self.dtype), kernel, (((x.ndim - 1,), (0,)), ((), ())))
        )


def orthogonal_penalty(params: dict[str, Any], skip: Sequence[str] = ()) -> Array:
    """The sum over all kernels W of the squared products of different columns, float32 [].

    Source: BigGAN (Brock et al. 2019), equation 3: |W^T W * (1 - I)|^2, in the Frobenius norm.

    Args:
      params: of a network.
      skip: names of its parts that have no penalty, such as embeddings.
    """

    def of(kernel: Array) -> Array:
        if kernel.ndim < 2:
            return jnp.float32(0)
        matrix = kernel.reshape(-1, kernel.shape[-1])
        gram = _product(matrix.T, matrix)
        return jnp.square(gram * (1 - jnp.eye(len(gram)))).sum()

    kept = {name: value for name, value in params.items() if name not in skip}
    return jnp.stack([of(leaf) for leaf in jax.tree.leaves(kept)]).sum()
