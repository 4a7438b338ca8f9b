"""Max-pooling with a fast, deterministic gradient.

XLA's gradient of a maximum over windows is select-and-scatter. It is slow on GPUs, and its sums
have no fixed order there. The gradient below is a sum of one strided slice for each position in the
window, in a fixed order. TPUs keep XLA's, which moves a sixth of the bytes. Where several elements
of a window are equal, the first in row-major order gets the gradient, as in torch
(aten/src/ATen/native/cpu/MaxPoolKernel.cpp) and in XLA.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.parallel.mesh import on_tpu


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: Array, window: int, stride: int, pad: int) -> Array:
    """The maximum of each square window: [B, H, W, C] -> [B, H', W', C].

    Each side is padded with `pad` elements of -inf; H' = (H + 2 pad - window) // stride + 1.
    """
    return plain_max_pool(x, window, stride, pad)


def plain_max_pool(x: Array, window: int, stride: int, pad: int) -> Array:
    """As `max_pool`, with XLA's gradient."""
    padding: Any = [(pad, pad), (pad, pad)]  # Flax's hint is `str`, its docstring allows pairs
    return nn.max_pool(x, (window, window), (stride, stride), padding=padding)


def _forward(x, window, stride, pad):
    y = max_pool(x, window, stride, pad)
    return y, (x, y)


def _backward(window, stride, pad, kept, grad):
    x, y = kept
    if on_tpu():
        return jax.vjp(lambda x: plain_max_pool(x, window, stride, pad), x)[1](grad)
    _, height, width, _ = x.shape
    _, rows, columns, _ = y.shape
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    edge = ((0, 0), (pad, pad + stride), (pad, pad + stride), (0, 0))
    padded = jnp.pad(x, edge, constant_values=low)
    total = jnp.zeros(padded.shape, grad.dtype)
    free = jnp.ones(y.shape, bool)  # windows whose gradient is not assigned yet
    for i in range(window):
        for j in range(window):
            here = lax.slice(
                padded,
                (0, i, j, 0),
                (len(x), i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, x.shape[3]),
                (1, stride, stride, 1),
            )
            first = free & (here == y)
            free &= ~first
            after = [
                size - start - stride * (count - 1) - 1
                for size, start, count in zip(
                    padded.shape[1:3], (i, j), (rows, columns), strict=True
                )
            ]
            spread = ((0, 0, 0), (i, after[0], stride - 1), (j, after[1], stride - 1), (0, 0, 0))
            total += lax.pad(jnp.where(first, grad, 0), jnp.zeros((), grad.dtype), spread)
    return (total[:, pad : pad + height, pad : pad + width],)


max_pool.defvjp(_forward, _backward)
