"""Small pure functions that more than one method needs."""

import jax
import jax.numpy as jnp
from jax import lax


def unit(x, eps: float = 1e-12):
    """x / |x| along the last axis, in float32; zero stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), eps))


def patchify(images, patch: int):
    """[B, H, W, C] -> [B, H/p * W/p, p * p * C]: rows of patches, pixels in order (row, column,
    channel) as in MAE's models_mae.py."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches, patch: int, channels: int):
    """The inverse of `patchify` for square images: [B, N, p * p * C] -> [B, H, W, C]."""
    b, n, _ = patches.shape
    side = round(n**0.5)
    x = patches.reshape(b, side, side, patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * patch, side * patch, channels)


def ema(old, new, decay):
    """decay * old + (1 - decay) * new, leaf by leaf; no gradient flows to `new`."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * lax.stop_gradient(b), old, new)


def cosine(step, steps: int, first: float, last: float):
    """`first` at step 0, `last` at `steps`, half a cosine between (BYOL, section 3.2)."""
    return last - (last - first) * (jnp.cos(jnp.pi * step / steps) + 1) / 2
