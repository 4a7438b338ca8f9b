"""Gradients of a batch that is too large to be differentiated at once."""

import jax
import jax.numpy as jnp


def mean_gradient(gradient, state, batch, rng, n: int):
    """(loss, buffers, metrics, gradient) over n micro-batches, one at a time in memory."""

    def deal(x):  # like cards, [B] -> [n, B/n], so that each device keeps rows of every micro-batch
        return x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)

    def micro(carry, part):
        buffers, total = carry
        now, (some, key) = state.replace(buffers=buffers), part
        (value, (buffers, metrics)), grads = gradient(state.params, now, some, key)
        return (buffers, jax.tree.map(jnp.add, total, grads)), (value, metrics)

    carry = (state.buffers, jax.tree.map(jnp.zeros_like, state.params))
    parts = (jax.tree.map(deal, batch), jax.random.split(rng, n))
    (buffers, total), (values, metrics) = jax.lax.scan(micro, carry, parts)
    mean = jax.tree.map(lambda m: m.mean(0), metrics)
    return values.mean(), buffers, mean, jax.tree.map(lambda g: g / n, total)
