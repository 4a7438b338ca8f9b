"""Spectral norm against PyTorch's (tests/golden/torch_spectral_norm.py made the numbers) and the
singular values; the orthogonal penalty against plain NumPy."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jssl.nn.spectral_norm import INITIALIZERS, Conv, Dense, orthogonal_penalty, spectral_norm

GOLDEN = json.loads((ROOT / "tests" / "golden" / "torch_spectral_norm.json").read_text())
SHARED = {"spectral": True, "initializer": INITIALIZERS["normal002"], "dtype": jnp.float32}
# PyTorch's axes (out, in, h, w) and (b, c, h, w) to ours, and back.
TO_OURS = {4: (0, 2, 3, 1), 2: (0, 1)}
KERNELS = {4: (2, 3, 1, 0), 2: (1, 0)}


def array(x):
    return np.array(x, np.float32)


def ours(x):
    return array(x).transpose(TO_OURS[array(x).ndim])


def kernel(x):
    return array(x).transpose(KERNELS[array(x).ndim])


@pytest.mark.parametrize(("name", "layer"), [("conv", Conv), ("dense", Dense)])
def test_three_training_passes_are_pytorchs(name, layer):
    """The output, the next u, and both gradients, which go through sigma and not through u."""
    case = GOLDEN[name]
    params = {"kernel": kernel(case["weight"])}
    module = layer(params["kernel"].shape[-1], train=True, use_bias=False, **SHARED)
    stats = {"u": array(case["u"])}
    weight = ours(case["output_weight"])

    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(params, x, stats):
        out, new = module.apply({"params": params, "batch_stats": stats}, x, mutable="batch_stats")
        return (out * weight).sum(), (out, new["batch_stats"])

    for wanted in case["passes"]:
        (_, (out, stats)), (gradient, of_input) = run(params, ours(case["input"]), stats)
        np.testing.assert_allclose(out, ours(wanted["output"]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["u"], array(wanted["u"]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            gradient["kernel"], kernel(wanted["weight_gradient"]), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(of_input, ours(wanted["input_gradient"]), rtol=1e-4, atol=1e-4)


def test_an_evaluation_pass_keeps_the_vector():
    """It changes nothing, and its estimate is one step better than that of the last vector."""
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    x = np.eye(6, dtype=np.float32)
    train, evaluate = (Dense(4, train=t, use_bias=False, **SHARED) for t in (True, False))
    u = np.ones(4, np.float32)
    stats = {"u": u}
    out = evaluate.apply({"params": {"kernel": w}, "batch_stats": stats}, x)
    v = w @ u
    v /= np.linalg.norm(v)
    next_u = w.T @ v / np.linalg.norm(w.T @ v)
    np.testing.assert_allclose(out, w / (v @ w @ next_u), rtol=1e-5)
    for _ in range(60):
        _, new = train.apply(
            {"params": {"kernel": w}, "batch_stats": stats}, x, mutable="batch_stats"
        )
        stats = new["batch_stats"]
    out = evaluate.apply({"params": {"kernel": w}, "batch_stats": stats}, x)
    assert np.linalg.svd(out, compute_uv=False)[0] == pytest.approx(1, rel=1e-4)


def test_a_kernel_of_zeros_stays_finite_in_its_vector():
    _, u = spectral_norm(jnp.zeros((3, 2)), jnp.ones(2))
    np.testing.assert_array_equal(u, np.zeros(2))


def test_a_layer_without_spectral_norm_has_no_vector():
    layer = Dense(3, train=True, **SHARED | {"spectral": False})
    variables = layer.init(jax.random.key(0), jnp.ones((2, 4)))
    assert set(variables) == {"params"} and set(variables["params"]) == {"kernel", "bias"}
    out = layer.apply(variables, np.eye(4))
    np.testing.assert_allclose(out, variables["params"]["kernel"], rtol=1e-6)


def test_orthogonal_kernels_have_no_penalty():
    """Equation 3 of BigGAN, in NumPy; biases and skipped parts do not count."""
    rng = np.random.default_rng(1)
    conv = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    dense = rng.normal(size=(5, 3)).astype(np.float32)
    params = {"a": {"kernel": conv, "bias": np.ones(4)}, "classes": {"kernel": dense}}
    wanted = 0.0
    flat = conv.reshape(18, 4)
    for i in range(4):
        for j in range(4):
            wanted += (flat[:, i] @ flat[:, j]) ** 2 if i != j else 0
    assert orthogonal_penalty(params, skip=("classes",)) == pytest.approx(wanted, rel=1e-5)
    assert orthogonal_penalty(params) > wanted
    basis = INITIALIZERS["orthogonal"](jax.random.key(0), (3, 3, 2, 4), jnp.float32)
    assert orthogonal_penalty({"a": {"kernel": basis}}) == pytest.approx(0, abs=1e-8)
