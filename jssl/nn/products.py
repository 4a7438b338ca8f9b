"""Matrix products of layers: two-dimensional ones on CPUs, of whole kernels on many devices.

The weight gradient of [B, T, D] x [D, K] sums over two dimensions. On a CPU XLA transposes both of
its operands in memory first; for [B T, D] it does not. A 1x1 convolution is such a product too, and
its weight gradient takes up to half the time (benchmarks/NOTES.md). Elsewhere XLA chooses layouts
itself, and a reshape of [B, T, D] can be a copy.

Kernels that are split over the mesh axis `fsdp` are gathered here (`mesh.with_whole_kernel`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
from jax import Array, lax

from jssl.parallel.mesh import on_cpu, with_whole_kernel


def dot_general(lhs: Array, rhs: Array, dimension_numbers: Any, **options: Any) -> Array:
    """As `jax.lax.dot_general`, of inputs [..., D] and a kernel [D, K]."""
    assert dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ())), dimension_numbers

    def product(x: Array, kernel: Array) -> Array:
        return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), **options)

    if on_cpu():
        return flattened(partial(with_whole_kernel, product, kernel=rhs), lhs)
    return with_whole_kernel(product, lhs, rhs)


def convolution(lhs: Array, rhs: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """As `jax.lax.conv_general_dilated`, of images [B, H, W, C] and a kernel [h, w, C, K]."""

    def product(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def pointwise(x: Array, kernel: Array) -> Array:
        return flattened(lambda x: lax.dot(x, kernel[0, 0]), x)

    is_padded = not isinstance(padding, str) and any(map(any, padding))
    if rhs.shape[:2] == (1, 1) and not is_padded and on_cpu():
        return with_whole_kernel(pointwise, lhs[:, :: strides[0], :: strides[1]], rhs)
    return with_whole_kernel(product, lhs, rhs)


def flattened(product: Callable[[Array], Array], x: Array) -> Array:
    """Applies a function [N, D] -> [N, K] to x [..., D]."""
    y = product(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


Dense = partial(nn.Dense, dot_general=dot_general)
Conv = partial(nn.Conv, conv_general_dilated=convolution)
