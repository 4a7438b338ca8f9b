"""Logits of the vocabulary: float32 values, and a gradient in the dtype of the arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses


def plain(hidden, table):
    return jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)


def value_and_gradients(function, hidden, table, answer):
    """Of the cross-entropy of the logits [N, V]."""

    def loss(hidden, table):
        return losses.cross_entropy(function(hidden, table).reshape(-1, len(table)), answer)[0]

    return jax.value_and_grad(loss, (0, 1))(hidden, table)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_product_and_its_gradient(dtype):
    """In bfloat16 the gradient of a logit is rounded to 8 bits."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(3, 4, 16)), dtype)
    table = jnp.asarray(rng.normal(size=(20, 16)), dtype)
    answer = jnp.asarray(rng.integers(0, 20, 12))
    ours = value_and_gradients(losses.vocab_logits, hidden, table, answer)
    theirs = value_and_gradients(plain, hidden, table, answer)
    assert losses.vocab_logits(hidden, table).dtype == jnp.float32
    assert ours[0] == theirs[0]
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert one.dtype == other.dtype == jnp.dtype(dtype)
        one = np.float32(one)
        other = np.float32(other)
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error < (1e-2 if dtype == "bfloat16" else 1e-6)


def test_no_product_mixes_dtypes():
    x = jax.ShapeDtypeStruct((6, 8), jnp.bfloat16)
    gradient = jax.grad(lambda a, b: losses.vocab_logits(a, b).sum(), (0, 1))
    dots = [e for e in jax.make_jaxpr(gradient)(x, x).eqns if e.primitive.name == "dot_general"]
    assert len(dots) == 2, "the gradient needs no logits"
    assert all(v.aval.dtype == jnp.bfloat16 for eqn in dots for v in eqn.invars)
