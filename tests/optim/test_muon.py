"""Muon against the reference's rule written out in NumPy; what is a matrix, and what is Adam's."""

import chex
import jax
import numpy as np
import optax
import pytest

from jssl import config, optim, recipes
from jssl.config import UserError
from jssl.optim.muon import orthogonalize

BASE = dict(recipes.DEFAULTS["optim"]) | dict(name="muon", lr=0.1, schedule="constant", b2=0.95)


def build(**changes):
    return config.call_with_section(optim.build, BASE | changes, "optim", steps=10, batch_size=256)


def by_hand(g):
    """`zeropower_via_newtonschulz5` of KellerJordan/Muon for one weight [out, in] in float64."""
    x = np.float64(g)
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def tree():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return np.float32(rng.normal(size=shape))

    def block():
        return {
            "attn": {
                "qkv": {"kernel": draw(8, 24), "bias": draw(24)},
                "proj": {"kernel": draw(8, 8)},
            },
            "mlp": {"fc1": {"kernel": draw(8, 32)}},
        }

    return {
        "encoder": {
            "tokens": {"embedding": draw(11, 8)},
            "patch_embed": {"kernel": draw(12, 8)},
            "blocks": {"0": block(), "1": block()},
            "layer1_0": {
                "conv1": {"kernel": draw(3, 3, 4, 6)},
                "conv3": {"kernel": draw(1, 1, 4, 16)},
                "bn1": {"scale": draw(6)},
            },
        },
        "prototypes": {"direction": draw(8, 20)},
        "head": {"dense0": {"kernel": draw(8, 8)}},
    }


def updates(params, grads, steps=2, **changes):
    tx = build(**changes)

    @jax.jit
    def step(params, state):
        found, state = tx.update(grads, state, params)
        return found, optax.apply_updates(params, found), state

    state = jax.jit(tx.init)(params)
    for _ in range(steps):
        found, params, state = step(params, state)
    return jax.device_get((found, params))


def expected(grads, steps):
    """-lr times the direction of `muon_update` for one matrix whose gradient stays the same."""
    momentum = 0.0
    for _ in range(steps):
        momentum = 0.9 * momentum + 0.1 * np.float64(grads)
    ahead = 0.1 * grads + 0.9 * momentum
    weight = by_hand(np.asarray(ahead).T)  # torch's weight is [out, in]
    return -0.1 * max(1, weight.shape[0] / weight.shape[1]) ** 0.5 * weight.T


def test_hidden_matrices_follow_the_reference():
    params = tree()
    grads = jax.tree.map(lambda x: x * 0.3 + 0.01, params)
    found, _ = updates(params, grads, weight_decay=0.0)
    block = found["encoder"]["blocks"]["1"]
    wanted = grads["encoder"]["blocks"]["1"]
    fc1 = expected(wanted["mlp"]["fc1"]["kernel"], 2)
    np.testing.assert_allclose(block["mlp"]["fc1"]["kernel"], fc1, atol=1e-5)
    for i in range(3):  # queries, keys and values are three matrices
        part = np.s_[:, 8 * i : 8 * i + 8]
        qkv = expected(wanted["attn"]["qkv"]["kernel"][part], 2)
        np.testing.assert_allclose(block["attn"]["qkv"]["kernel"][part], qkv, atol=1e-5)
    conv = expected(grads["encoder"]["layer1_0"]["conv1"]["kernel"].reshape(36, 6), 2)
    got = found["encoder"]["layer1_0"]["conv1"]["kernel"].reshape(36, 6)
    np.testing.assert_allclose(got, conv, atol=1e-5)
    wide = expected(grads["encoder"]["layer1_0"]["conv3"]["kernel"].reshape(4, 16), 2)
    got = found["encoder"]["layer1_0"]["conv3"]["kernel"].reshape(4, 16)
    np.testing.assert_allclose(got, wide / 2, atol=1e-5)  # its factor is 1, not sqrt(16 / 4)


def test_all_else_is_adamw():
    params = tree()
    grads = jax.tree.map(lambda x: x * 0.3 + 0.01, params)
    _, after = updates(params, grads, weight_decay=0.01)
    _, plain = updates(params, grads, name="adamw", weight_decay=0.01)
    for pick in (
        lambda t: t["encoder"]["tokens"]["embedding"],
        lambda t: t["encoder"]["patch_embed"]["kernel"],
        lambda t: t["encoder"]["blocks"]["0"]["attn"]["qkv"]["bias"],
        lambda t: t["encoder"]["layer1_0"]["bn1"]["scale"],
        lambda t: t["prototypes"]["direction"],
        lambda t: t["head"]["dense0"]["kernel"],
    ):
        np.testing.assert_allclose(pick(after), pick(plain), atol=1e-6)


def test_scanned_layers_are_many_matrices():
    params = tree()["encoder"]["blocks"]
    grads = jax.tree.map(lambda x: x * 0.3 + 0.01, params)
    stacked = jax.tree.map(lambda a, b: np.stack([a, b]), params["0"], params["1"])
    both = jax.tree.map(lambda a, b: np.stack([a, b]), grads["0"], grads["1"])
    one, _ = updates({"net": {"blocks": params}}, {"net": {"blocks": grads}})
    scan, _ = updates(
        {"net": {"blocks": {"layers": stacked}}}, {"net": {"blocks": {"layers": both}}}
    )
    layers = scan["net"]["blocks"]["layers"]
    for i in range(2):
        layer = jax.tree.map(lambda x, i=i: x[i], layers)
        chex.assert_trees_all_close(layer, one["net"]["blocks"][str(i)], atol=1e-5)


def test_singular_values_come_near_to_one():
    x = np.random.default_rng(0).normal(size=(3, 5, 9)).astype(np.float32)
    values = np.linalg.svd(jax.jit(orthogonalize)(x), compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_network_without_hidden_kernels_is_refused():
    params = {"head": {"dense0": {"kernel": np.ones((2, 2), np.float32)}}}
    with pytest.raises(
        UserError, match="optim.muon_params=.* matches no kernel.*head/dense0/kernel"
    ):
        build().init(params)
    jax.eval_shape(build(muon_params=("head/",)).init, params)
