"""`descend`, `minimize` and accumulation on a linear model whose answers are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import make_mesh

from jssl.core import Objective, gradient_step
from jssl.parallel import mesh
from jssl.training.gradients import minimize


def linear(rng, batch):
    return {"encoder": jnp.zeros((3,))}, {"seen": jnp.zeros(())}


def squared(params, state, batch, rng):
    error = batch["x"] @ params["encoder"] - batch["y"]
    seen = state.buffers["seen"] + len(error)
    return jnp.mean(error**2), ({"seen": seen}, {"bias": error.mean()})


def method(accumulate, tx=None):
    objective = Objective(linear, squared, lambda params, buffers, batch: batch["x"])
    return minimize(objective, tx or optax.sgd(0.1), accumulate)


def batch(n=8):
    rng = np.random.default_rng(0)
    return {"x": jnp.float32(rng.normal(size=(n, 3))), "y": jnp.float32(rng.normal(size=n))}


def test_descend_is_one_step_of_gradient_descent():
    data = batch()

    def loss(w):
        return (jnp.mean((data["x"] @ w - data["y"]) ** 2), "aux")

    tx = optax.sgd(0.1)
    w, _, aux, metrics = gradient_step(loss, jnp.zeros(3), tx.init(jnp.zeros(3)), tx)
    x, y = np.float64(data["x"]), np.float64(data["y"])
    gradient = 2 * x.T @ -y / len(y)
    np.testing.assert_allclose(w, -0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"], np.linalg.norm(gradient) / 10, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(y**2), rtol=1e-6)
    assert aux == "aux"


def test_accumulation_equals_the_whole_batch_for_a_mean_loss():
    whole, parts = method(1), method(4)
    rng = jax.random.key(0)
    state = whole.init(rng, batch())
    one, metrics_one = jax.jit(whole.train_step)(state, batch(), rng)
    four, metrics_four = jax.jit(parts.train_step)(state, batch(), rng)
    np.testing.assert_allclose(four.params["encoder"], one.params["encoder"], rtol=1e-5)
    np.testing.assert_allclose(metrics_four["loss"], metrics_one["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics_four["bias"], metrics_one["bias"], rtol=1e-5)
    assert four.buffers["seen"] == one.buffers["seen"] == 8  # buffers pass through all of them
    assert four.step == 1


def test_micro_batches_keep_rows_of_every_device():
    eight = make_mesh(8)
    data = jax.device_put(batch(32), mesh.batch_sharding(eight))
    dealt = jax.jit(lambda x: x.reshape(8, 4, 3).swapaxes(0, 1))(data["x"])
    rows = {str(s.index[1]) for s in dealt.addressable_shards}
    assert len(rows) == 8, "each device holds its own rows of every micro-batch"


def test_metrics_are_float32_and_have_the_loss():
    rng = jax.random.key(0)
    one = method(1)
    _, metrics = one.train_step(one.init(rng, batch()), batch(), rng)
    assert {"loss", "grad_norm", "update_norm", "skipped_consecutive", "skipped", "bias"} == set(
        metrics
    )
    assert all(value.dtype == jnp.float32 for value in metrics.values())
