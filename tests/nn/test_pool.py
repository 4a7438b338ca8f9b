"""Max-pooling: XLA's values and gradients, ties to the first, no select-and-scatter."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.nn import pool
from jssl.nn.pool import max_pool


def plain(x, window, stride, pad):
    return nn.max_pool(x, (window,) * 2, (stride,) * 2, padding=[(pad, pad)] * 2)


@pytest.mark.parametrize("shape", [(3, 2, 1), (2, 2, 0), (3, 1, 1), (3, 3, 0)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("ties", [False, True])
def test_gradient_equals_select_and_scatter(shape, size, ties):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    x = np.maximum(np.round(x), 0) if ties else x  # after a ReLU most windows are tied
    out = plain(x, *shape)
    weight = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    both = [
        jax.jit(jax.value_and_grad(lambda x, pool=pool: (pool(x, *shape) * weight).sum()))(x)
        for pool in (max_pool, plain)
    ]
    np.testing.assert_array_equal(both[0][0], both[1][0])
    np.testing.assert_allclose(both[0][1], both[1][1], atol=1e-6)


def test_the_first_of_equals_gets_all():
    grad = jax.grad(lambda x: max_pool(x, 2, 2, 0).sum())(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(
        grad[0, :, :, 0], np.kron(np.eye(1), [[1, 0] * 2, [0, 0] * 2] * 2)
    )


def test_tpus_keep_select_and_scatter(monkeypatch):
    monkeypatch.setattr(pool, "on_tpu", lambda: True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    found, wanted = (jax.grad(lambda x, f=f: (f(x, 3, 2, 1) ** 2).sum()) for f in (max_pool, plain))
    assert "select_and_scatter" in str(jax.make_jaxpr(found)(x))
    np.testing.assert_array_equal(found(x), wanted(x))


def test_no_scatter_is_left_in_the_step():
    text = str(
        jax.make_jaxpr(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum()))(jnp.ones((1, 8, 8, 1)))
    )
    assert "scatter" not in text
    assert "select_and" not in text
