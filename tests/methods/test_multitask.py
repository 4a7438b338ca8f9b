"""Several tasks on one encoder: weights, gradients, names and messages."""

import functools

import jax
import numpy as np
import optax
import pytest
from conftest import make_mesh

from jssl.config import Config, UserError, reference
from jssl.nn import shared_encoder
from jssl.optim.balance import Balance
from jssl.recipes import TINY_RESNET, crop_and_flip, mlp, recipe, resnet
from jssl.training.setup import rng_keys, setup_run

SHARED = dict(
    batch_size=16, steps=6,
    data=dict(source="digits", on_device=True),
    model=resnet("resnet18", "cifar"),
    augment=crop_and_flip(32, (0.5, 1.0)),
    optim=dict(name="sgd", lr=0.1, momentum=0.9),
)  # fmt: skip
SIMCLR = dict(temperature=0.5, loss="nt_xent", head=mlp(16, 8, last="bn"))
BYOL = dict(
    head=mlp(16, 8, last="bias"), predictor=mlp(16, 8, last="bias"), ema_decay=0.9,
    ema_decay_final=0.9,
)  # fmt: skip
VICREG = dict(
    head=mlp(16, 8, last="plain"), invariance=25.0, variance=25.0, covariance=1.0,
    augment=dict(crop_scale=(0.9, 1.0)),
)  # fmt: skip


def config_of(weights, **changes):
    """Three tasks on a tiny encoder."""
    pairs = tuple(zip(("simclr", "byol", "vicreg"), weights, strict=True))
    own = dict(
        method="multitask", tasks=pairs, balance="fixed", gradnorm_alpha=1.5, gradnorm_lr=0.025,
        simclr=SIMCLR, byol=BYOL, vicreg=VICREG,
    )  # fmt: skip
    return recipe("tiny", SHARED | own, tiny=TINY_RESNET | changes)


@functools.cache
def trained(weights, steps=2, **changes):
    """(run, [(state, metrics)]) of some steps on the same batch."""
    tree = config_of(weights, **changes) if weights else recipe(
        "tiny", SHARED | SIMCLR | {"method": "simclr"}, tiny=TINY_RESNET
    )  # fmt: skip
    run = setup_run(Config(tree), make_mesh(1))
    batch = run.data.source.read(np.arange(16))
    batch.pop("damaged")
    state, rng, found = run.init(), rng_keys(run.config)[1], []
    step = jax.jit(run.method.train_step)
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.fold_in(rng, state.step))
        found.append((state, jax.device_get(metrics)))
    return run, found


def test_one_task_of_weight_one_equals_the_task_alone_bit_for_bit():
    (_, alone), (_, together) = trained(None), trained((1.0, 0.0, 0.0))
    for (one, metrics), (other, others) in zip(alone, together, strict=True):
        mine = shared_encoder.own_params(other.params, "simclr")
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(mine), strict=True):
            np.testing.assert_array_equal(a, b)
        assert metrics["loss"] == others["loss"] == others["simclr_loss"]


def test_the_gradient_is_the_weighted_sum_and_heads_belong_to_their_task():
    run, ((state, metrics), _) = trained((1.0, 0.5, 0.25))
    assert set(state.params) == {"encoder", "simclr", "byol", "vicreg"}
    assert set(state.params["byol"]) == {"head", "predictor"}
    assert set(state.buffers["byol"]) >= {"teacher"} and "encoder" in state.buffers["stats"]
    losses = [metrics[f"{name}_loss"] for name in ("simclr", "byol", "vicreg")]
    np.testing.assert_allclose(metrics["loss"], np.dot(losses, (1.0, 0.5, 0.25)), rtol=1e-5)
    assert -1 <= metrics["cosine_simclr_byol"] <= 1 and metrics["vicreg_weight"] == 0.25
    assert "feature_std" in metrics and "byol_feature_std" not in metrics


def test_the_sum_of_gradients_and_their_cosines():
    gradients = {
        "a": {"encoder": {"w": np.array([3.0, 4.0])}, "head": np.array([1.0])},
        "b": {"encoder": {"w": np.array([4.0, -3.0])}, "head": np.array([5.0])},
        "c": {"encoder": {"w": np.array([6.0, 8.0])}},
    }
    total = shared_encoder.weighted_sum(gradients, {"a": 1.0, "b": 2.0, "c": 0.5})
    np.testing.assert_allclose(total["encoder"]["w"], [14.0, 2.0])
    np.testing.assert_allclose(total["b"]["head"], [10.0])
    encoders = {name: tree["encoder"] for name, tree in gradients.items()}
    norms = {name: optax.tree.norm(tree) for name, tree in encoders.items()}
    found = shared_encoder.cosines(encoders, norms)
    assert found.keys() == {"cosine_a_b", "cosine_a_c", "cosine_b_c"}
    np.testing.assert_allclose([found["cosine_a_b"], found["cosine_a_c"]], [0, 1], atol=1e-6)


def test_uncertainty_is_the_gradient_of_its_total():
    """The total of Kendall et al., differentiated by JAX."""
    balance = Balance("uncertainty", {"a": 1.0, "b": 2.0}, 0.0, 0.1)
    losses = {"a": np.float32(3.0), "b": np.float32(0.1)}
    params = {"balance": {"a": np.float32(0.3), "b": np.float32(-0.7)}}

    def total(params):
        weights = {"a": 1.0, "b": 2.0}
        of = {t: weights[t] * jax.numpy.exp(-params["balance"][t]) * losses[t] for t in losses}
        return sum(of.values()) + sum(params["balance"].values()) / 2

    wanted = jax.grad(total)(params)
    found = balance.gradient(params, losses)
    np.testing.assert_allclose(jax.tree.leaves(found), jax.tree.leaves(wanted), rtol=1e-6)
    factors = balance.factors(params, {})
    np.testing.assert_allclose(balance.total(params, factors, losses), total(params), rtol=1e-6)
    runaway = {"balance": {"a": np.float32(-4.0), "b": np.float32(-4.0)}}
    assert balance.gradient(runaway, {"a": np.float32(0), "b": np.float32(0)})["balance"]["a"] == 0


def test_gradnorm_raises_the_weight_of_a_small_gradient_and_of_a_slow_task():
    balance = Balance("gradnorm", {"a": 1.0, "b": 1.0}, 1.5, 0.1)
    buffers = balance.buffers()
    losses = {"a": np.float32(2.0), "b": np.float32(2.0)}
    norms = {"a": np.float32(4.0), "b": np.float32(1.0)}
    buffers = balance.updated(buffers, losses, norms, np.int32(0))
    weights = buffers["balance"]["weights"]
    assert weights["a"] < 1 < weights["b"]
    np.testing.assert_allclose(weights["a"] + weights["b"], 2, rtol=1e-6)
    equal = {"a": np.float32(1.0), "b": np.float32(1.0)}
    even = balance.updated(balance.buffers(), losses, equal, np.int32(0))
    later = {"a": np.float32(2.0), "b": np.float32(0.2)}  # b has learned ten times as much
    slow = balance.updated(even, later, equal, np.int32(5))["balance"]["weights"]
    assert slow["a"] > 1 > slow["b"]
    assert even["balance"]["first"]["b"] == slow_first(balance, even, later, equal)


def slow_first(balance, buffers, losses, norms):
    return balance.updated(buffers, losses, norms, np.int32(9))["balance"]["first"]["b"]


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_learned_weights_move(kind):
    run, found = trained((1.0, 1.0, 1.0), 3, balance=kind)
    weights = [[float(m[f"{t}_weight"]) for t in ("simclr", "byol", "vicreg")] for _, m in found]
    np.testing.assert_allclose(weights[0], 1, rtol=1e-6)
    assert np.abs(np.subtract(weights[2], 1)).min() > 1e-3


def test_keys_have_their_meaning_and_messages_name_them_whole():
    tree = config_of((1.0, 1.0, 1.0))
    assert reference.meaning(tree, "simclr.temperature").startswith("divides")
    assert reference.meaning(tree, "byol.head.features").startswith("width of each")
    for changes, said in (
        ({"simclr.loss": "dlc"}, "--config.simclr.loss='dlc'"),
        ({"byol.head.features": (16, 4)}, "--config.byol.predictor.features ends in 8"),
        ({"tasks": (("simclr", 1.0), ("simclr", 1.0))}, "'simclr': is there twice"),
        ({"tasks": (("simclr", 0.0),)}, "all weights are 0"),
        ({"tasks": (("simlcr", 1.0),)}, "--config.tasks='simlcr': needs a section 'simlcr'"),
        ({"simclr.head.norm": 3}, "--config.simclr.head.norm=3"),
    ):
        with pytest.raises(UserError) as caught:
            setup_run(Config(config_of((1.0, 1.0, 1.0), **changes)), make_mesh(1))
        assert said in str(caught.value), str(caught.value)
