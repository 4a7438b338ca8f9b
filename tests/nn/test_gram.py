"""Gram anchoring: the loss against NumPy, when the Gram teacher changes, and what it sees."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from jssl.losses import gram_loss
from jssl.nn.gram import GramTeacher


def test_the_loss_is_that_of_the_reference():
    """dinov3/loss/gram_loss.py: MSELoss of the two matrices of cosines, per image."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 7)).astype(np.float32) * 3
    target = rng.normal(size=(2, 5, 4)).astype(np.float32)

    def cosines(a):
        unit = a / np.linalg.norm(a, axis=-1, keepdims=True)
        return np.stack([one @ one.T for one in unit])

    want = np.mean((cosines(x) - cosines(target)) ** 2)
    value, gradient = jax.value_and_grad(gram_loss, argnums=(0, 1))(x, target)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert np.abs(gradient[0]).max() > 0 and not np.any(gradient[1]), "the teacher is fixed"
    np.testing.assert_allclose(gram_loss(x, 2 * x), 0, atol=1e-6)


class State(types.SimpleNamespace):
    def replace(self, **changes):
        return State(**(vars(self) | changes))


def taught(every, start=4):
    """The step whose teacher the Gram teacher has, after each of ten steps; -1: the start."""
    anchor = GramTeacher(encoder=None, weight=1.0, start=start, every=every)
    buffers = {"gram": {"encoder": jnp.float32(-1)}, "teacher": {"encoder": jnp.float32(0)}}
    found = []
    for step in range(10):
        buffers = buffers | {"teacher": {"encoder": jnp.float32(step)}}
        state = anchor.update(State(step=jnp.int32(step), buffers=buffers))
        buffers = state.buffers
        found.append(int(buffers["gram"]["encoder"]))
    return found


def test_the_gram_teacher_is_copied_at_the_start_and_then_regularly():
    assert taught(every=3) == [-1, -1, -1, -1, 4, 4, 4, 7, 7, 7]
    assert taught(every=0) == [-1] * 10


def test_the_loss_counts_from_its_first_step():
    anchor = GramTeacher(encoder=None, weight=2.0, start=4, every=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4)).astype(np.float32)
    y = rng.normal(size=(1, 3, 4)).astype(np.float32)
    before, metrics = anchor.loss(x, y, jnp.int32(3))
    after, _ = anchor.loss(x, y, jnp.int32(4))
    assert before == 0 and metrics["gram_loss"] > 0
    np.testing.assert_allclose(after, 2 * metrics["gram_loss"], rtol=1e-6)
