"""Optimizers by name against update rules written out in NumPy; schedules; masks."""

import jax
import numpy as np
import optax
import pytest

from jssl import config, optim, recipes
from jssl.config import UserError
from jssl.optim import schedules, transforms

BASE = dict(recipes.DEFAULTS["optim"]) | {"lr": 0.1, "schedule": "constant", "weight_decay": 0.01}
PARAMS = {"layer": {"kernel": np.float32([[1, -2], [0.5, 3]]), "bias": np.float32([1, 2])}}
GRADS = {
    "layer": {"kernel": np.float32([[0.1, 0.2], [-0.3, 0.4]]), "bias": np.float32([0.5, -0.5])}
}


def build(steps=10, batch_size=256, **changes):
    if changes.get("name") == "muon":
        changes["muon_params"] = ("kernel$",)
    return config.call_with_section(
        optim.build, BASE | changes, "optim", steps=steps, batch_size=batch_size
    )


def start(tx):
    """(step, its first state): ``step(grads, state, params) -> (updates, state, params)``."""

    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return updates, state, optax.apply_updates(params, updates)

    return step, jax.jit(tx.init)(PARAMS)


def run(tx, steps=2):
    params, (step, state) = PARAMS, start(tx)
    for _ in range(steps):
        _, state, params = step(GRADS, state, params)
    return {key: np.float64(value) for key, value in params["layer"].items()}


def by_hand(rule, steps=2):
    """`rule(weights, gradient, memory, decay, step) -> (weights, memory)` for kernel and bias."""
    out = {}
    for key in ("kernel", "bias"):
        w, g, memory = np.float64(PARAMS["layer"][key]), np.float64(GRADS["layer"][key]), 0.0
        for step in range(steps):
            w, memory = rule(w, g, memory, 0.01 * (key == "kernel"), step)
        out[key] = w
    return out


def close(found, wanted):
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, err_msg=key)


def test_sgd_is_pytorchs():
    def rule(w, g, velocity, decay, step):
        velocity = 0.9 * velocity + (g + decay * w)
        return w - 0.1 * velocity, velocity

    close(run(build(name="sgd")), by_hand(rule))


def test_lars_is_the_simclr_reference():
    def rule(w, g, velocity, decay, step):
        g = g + decay * w
        ratio = 0.001 * np.linalg.norm(w) / np.linalg.norm(g) if decay else 1.0
        velocity = 0.9 * velocity + 0.1 * ratio * g
        return w - velocity, velocity

    close(run(build(name="lars")), by_hand(rule))


def test_adamw_decouples_the_decay():
    def rule(w, g, memory, decay, step):
        m, v = memory or (0.0, 0.0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        return w - 0.1 * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay * w), (m, v)

    close(run(build(name="adamw")), by_hand(rule))


def test_lamb_scales_by_the_trust_ratio():
    def rule(w, g, memory, decay, step):
        m, v = memory or (0.0, 0.0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        update = m_hat / (np.sqrt(v_hat) + 1e-8) + decay * w
        trust = np.linalg.norm(w) / np.linalg.norm(update) if decay else 1.0  # not of the bias
        return w - 0.1 * update * trust, (m, v)

    close(run(build(name="lamb")), by_hand(rule))


def test_clip_bounds_the_gradient():
    tx = build(name="sgd", clip_norm=0.1, weight_decay=0.0, momentum=0.0)
    norm = jax.jit(lambda grads: optax.tree.norm(tx.update(grads, tx.init(PARAMS), PARAMS)[0]))
    np.testing.assert_allclose(norm(GRADS), 0.1 * 0.1, rtol=1e-5)


def test_mask_by_path():
    keep = transforms.mask(("bias$", "scale$"))(
        {"encoder": {"bn1": {"scale": 0, "bias": 0}, "conv1": {"kernel": 0}}, "cls_token": 0}
    )
    assert keep == {
        "encoder": {"bn1": {"scale": False, "bias": False}, "conv1": {"kernel": True}},
        "cls_token": True,
    }


def test_the_log_knows_every_rate():
    view = config.Config(config.load("configs/simclr_digits.py"))
    rates = schedules.lr_per_step(view)
    assert rates.shape == (view.steps,) and rates[0] == 0
    np.testing.assert_allclose(rates[view.optim.warmup_steps], view.optim.lr, rtol=1e-6)


def test_cosine_with_warmup():
    given = {
        "lr": 0.3,
        "lr_final": 0.0,
        "lr_scaling": "linear",
        "warmup_steps": 10,
        "schedule": "cosine",
    }
    rate = schedules.learning_rate(**given, steps=110, batch_size=512)
    *first, half, last = jax.device_get(jax.jit(jax.vmap(rate))(np.array([0, 5, 10, 60, 110])))
    np.testing.assert_allclose(first, [0.0, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(half, 0.3, rtol=1e-5)  # half-way down the cosine
    np.testing.assert_allclose(last, 0.0, atol=1e-7)
    assert schedules.peak_lr(0.075, "sqrt", 4096) == 0.075 * 64


def test_steps_after_a_warmup():
    """RotNet on CIFAR-10: .1, .02, .004, .0008 from epochs 60, 120 and 160 of 200."""
    rate = schedules.learning_rate(
        lr=0.1,
        lr_final=0.0,
        lr_scaling="linear",
        warmup_steps=10,
        schedule="steps",
        steps=200,
        batch_size=512,
        drop_at=(0.3, 0.6, 0.8),
        drop_factor=0.2,
    )
    at = np.array([0, 5, 10, 59, 60, 119, 120, 159, 160, 199])
    found = jax.jit(jax.vmap(rate))(at)
    wanted = 2 * np.array([0, 0.05, 0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    tx = build(name="sgd", schedule="steps", drop_at=(0.1, 0.2), momentum=0.0, weight_decay=0.0)
    bias = PARAMS["layer"]["bias"] - (0.1 + 0.01 + 0.001) * GRADS["layer"]["bias"]
    np.testing.assert_allclose(run(tx, 3)["bias"], bias, rtol=1e-6)


def test_another_schedule_drops_the_settings_of_this_one():
    tree = config.load("configs/rotation_cifar10.py", {"optim.schedule": "constant"})
    assert (tree.optim.drop_at, tree.optim.drop_factor) == ((), 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "sgd", "schedule": "steps"}, ["optim.drop_at=()", "try (0.5, 0.75)"]),
        ({"name": "sgd", "drop_at": (0.5,)}, ["optim.drop_at=(0.5,)", "set it to ()"]),
        ({"name": "sgd", "drop_factor": 0.5}, ["optim.drop_factor=0.5", "schedule 'constant'"]),
        (
            {"name": "sgd", "schedule": "steps", "drop_at": (0.5,), "lr_final": 0.1},
            ["optim.lr_final=0.1", "schedule 'steps'"],
        ),
        ({"name": "adamx"}, ["optim.name='adamx'", "adamw"]),
        ({"name": "sgd", "schedule": "cosin"}, ["optim.schedule='cosin'", "cosine"]),
        ({"name": "sgd", "lr_scaling": "lin"}, ["optim.lr_scaling='lin'", "linear"]),
        ({"name": "sgd", "warmup_steps": 10}, ["optim.warmup_steps=10", "steps=10"]),
        ({"name": "sgd", "lr": "high"}, ["config.optim.lr='high'", "float"]),
    ],
)
def test_wrong_values_are_named(changes, words):
    with pytest.raises(UserError) as error:
        build(**changes)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_larc_is_apexs_and_solo_learns():
    """g = ratio (g + wd w), ratio = trust |w| / (|g| + wd |w|), clipped at 1 by the rate or not;
    then momentum, then the rate; what is excluded is plain SGD."""
    for clip in (False, True):
        tx = build(name="larc", trust_coefficient=0.02, trust_clip=clip, momentum=0.9)
        w, bias = np.float64(PARAMS["layer"]["kernel"]), np.float64(PARAMS["layer"]["bias"])
        g, g_bias = np.float64(GRADS["layer"]["kernel"]), np.float64(GRADS["layer"]["bias"])
        v = v_bias = 0.0
        for _ in range(2):
            ratio = 0.02 * np.linalg.norm(w) / (np.linalg.norm(g) + 0.01 * np.linalg.norm(w))
            ratio = min(ratio / 0.1, 1) if clip else ratio
            v, v_bias = 0.9 * v + ratio * (g + 0.01 * w), 0.9 * v_bias + g_bias
            w, bias = w - 0.1 * v, bias - 0.1 * v_bias
        found = run(tx)
        np.testing.assert_allclose(found["kernel"], w, rtol=1e-5)
        np.testing.assert_allclose(found["bias"], bias, rtol=1e-5)


@pytest.mark.parametrize("name", optim.NAMES)
def test_a_frozen_parameter_has_no_gradient_and_then_starts_afresh(name):
    """torch's p.grad = None (DINO's cancel_gradients_last_layer): nothing of it moves, no moment
    and no decay; then it goes as one of a new optimizer does."""
    tx = build(name=name, freeze=("kernel$",), freeze_steps=3)
    params, (step, state) = PARAMS, start(tx)
    loud = jax.tree.map(lambda g: -100 * g, GRADS)  # what a moment would remember
    for _ in range(3):
        _, state, params = step(loud, state, params)
        np.testing.assert_array_equal(params["layer"]["kernel"], PARAMS["layer"]["kernel"])
    assert not np.array_equal(params["layer"]["bias"], PARAMS["layer"]["bias"])
    for _ in range(2):
        _, state, params = step(GRADS, state, params)
    np.testing.assert_allclose(
        params["layer"]["kernel"], run(build(name=name), 2)["kernel"], rtol=1e-5
    )


def test_what_was_frozen_goes_on_at_the_rate_and_decay_of_the_step():
    """AdamW of which three updates are left out: its count of the moments starts at 1, the
    schedules are at steps 3 and 4."""
    more = {"schedule": "cosine", "weight_decay": 0.1, "weight_decay_final": 0.4}
    factors = {"lr_factors": (("kernel$", 0.5),)}
    tx = build(name="adamw", freeze=("kernel$",), freeze_steps=3, **more, **factors)
    params, (update, state) = PARAMS, start(tx)
    w, m, v = np.float64(PARAMS["layer"]["kernel"]), 0.0, 0.0
    g = np.float64(GRADS["layer"]["kernel"])
    for step in range(5):
        _, state, params = update(GRADS, state, params)
        if step < 3:
            continue
        half = (1 + np.cos(np.pi * step / 10)) / 2
        rate, decay, count = 0.1 * half, 0.4 + (0.1 - 0.4) * half, step - 2
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        adam = m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        w = w - 0.5 * rate * (adam + decay * w)
    np.testing.assert_allclose(params["layer"]["kernel"], w, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_what_is_frozen_for_ever_has_no_state_and_no_part_in_the_norm(name):
    """MoCo v3's patch projection: requires_grad=False."""
    kernel = {"layer": {"kernel": PARAMS["layer"]["kernel"]}}
    tx = build(name=name, freeze=("bias$",), freeze_steps=-1, clip_norm=0.01)
    alone = build(name=name, clip_norm=0.01)

    @jax.jit
    def both(grads):
        state, other = tx.init(PARAMS), alone.init(kernel)
        updates, _ = tx.update(grads, state, PARAMS)
        wanted, _ = alone.update({"layer": {"kernel": grads["layer"]["kernel"]}}, other, kernel)
        return updates, wanted, state, other

    def count(tree):
        return sum(x.size for x in jax.tree.leaves(tree))

    updates, wanted, state, other = both(GRADS)
    assert count(state) == count(other)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)
    np.testing.assert_allclose(updates["layer"]["kernel"], wanted["layer"]["kernel"], rtol=1e-6)


def test_rates_of_some_parameters():
    plain = run(build(name="sgd", weight_decay=0.0), 1)
    less = run(build(name="sgd", weight_decay=0.0, lr_factors=(("bias$", 0.5),)), 1)
    np.testing.assert_array_equal(less["kernel"], plain["kernel"])
    np.testing.assert_allclose(
        less["bias"] - PARAMS["layer"]["bias"],
        0.5 * (plain["bias"] - PARAMS["layer"]["bias"]),
        rtol=1e-4,
    )
    falling = {"name": "sgd", "schedule": "cosine", "weight_decay": 0.0, "momentum": 0.0}
    steady = run(build(**falling, lr_constant=("bias$",)), 5)
    bias = PARAMS["layer"]["bias"] - 5 * 0.1 * GRADS["layer"]["bias"]
    np.testing.assert_allclose(steady["bias"], bias, rtol=1e-5)
    assert np.abs(steady["kernel"] - PARAMS["layer"]["kernel"]).max() < 0.9 * 5 * 0.1 * 0.4


def test_layer_decay_lowers_the_rate_towards_the_input():
    """DINOv2's utils/param_groups.py: 1 outside of the encoder, .5 for each layer below."""
    one = {"kernel": np.ones((2, 2), np.float32)}
    blocks = {"0": one, "1": one}
    encoder = {"patch_embed": one, "blocks": blocks, "norm": {"scale": np.ones(2, np.float32)}}
    params = {"encoder": encoder, "head": one}
    tx = build(name="sgd", weight_decay=0.0, momentum=0.0, layer_decay=0.5)
    updates, _ = tx.update(params, tx.init(params), params)  # the gradients are 1
    found = {
        "patches": updates["encoder"]["patch_embed"]["kernel"][0, 0],
        "first": updates["encoder"]["blocks"]["0"]["kernel"][0, 0],
        "second": updates["encoder"]["blocks"]["1"]["kernel"][0, 0],
        "norm": updates["encoder"]["norm"]["scale"][0],
        "head": updates["head"]["kernel"][0, 0],
    }
    want = {"patches": 0.125, "first": 0.25, "second": 0.5, "norm": 1.0, "head": 1.0}
    assert {key: round(float(x) / -0.1, 6) for key, x in found.items()} == want


def test_clipping_of_each_tensor():
    tx = build(name="sgd", clip_norm_per_tensor=0.3, weight_decay=0.0, momentum=0.0)
    found = run(tx, 1)
    for name, norm in (("kernel", 0.3), ("bias", 0.3)):
        step = np.linalg.norm((found[name] - PARAMS["layer"][name]).ravel()) / 0.1
        np.testing.assert_allclose(step, norm, rtol=1e-4)


def test_weight_decay_that_rises():
    """DINO: decay by half a cosine; the update with no gradient is rate * decay * weight."""
    tx = build(steps=10, name="adamw", weight_decay=0.04, weight_decay_final=0.4)
    zero = {"layer": {k: 0 * v for k, v in PARAMS["layer"].items()}}
    update, state = start(tx)
    for step in range(3):
        updates, state, _ = update(zero, state, PARAMS)
        decay = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * step / 10)) / 2
        wanted = -0.1 * decay * PARAMS["layer"]["kernel"]
        np.testing.assert_allclose(updates["layer"]["kernel"], wanted, rtol=1e-5)
    with pytest.raises(UserError, match="optim.weight_decay_final=0.4"):
        build(name="larc", weight_decay_final=0.4)


def test_the_cosine_ends_where_it_is_told():
    given = {"lr": 0.3, "lr_final": 0.003, "lr_scaling": "linear", "warmup_steps": 0}
    rate = schedules.learning_rate(**given, schedule="cosine", steps=100, batch_size=512)
    ends = jax.jit(jax.vmap(rate))(np.array([0, 100]))
    np.testing.assert_allclose(ends, [0.6, 0.006], rtol=1e-5)
