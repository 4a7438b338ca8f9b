"""Two players: a discriminator w that scores w x, and a generator that makes the image z."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_mesh
from jax.sharding import PartitionSpec as P

from jssl import optim
from jssl.config import Config, UserError, load
from jssl.core import TwoPlayers
from jssl.optim.layers import layer_scales
from jssl.parallel import mesh
from jssl.perf import memory
from jssl.training.run_observers import learning_rates
from jssl.training.setup import Run, check_batch
from jssl.training.two_players import alternate

RATES = {"discriminator": 0.1, "generator": 0.01}


def players(steps: int) -> TwoPlayers:
    """Both start at ones. The buffers count the losses that were computed, and keep an average."""

    def init(rng, batch):
        params = {"encoder": jnp.ones(3), "head": jnp.ones(()), "generator": jnp.ones(3)}
        return params, {"losses": jnp.int32(0), "ema": jnp.zeros(3)}

    def seen(state):
        return state.buffers | {"losses": state.buffers["losses"] + 1}

    def discriminator_loss(own, state, batch, rng):
        assert set(own) == {"encoder", "head"}
        real = own["head"] * batch["x"] @ own["encoder"]
        fake = own["head"] * state.params["generator"] @ own["encoder"]
        return jnp.mean((real - 1) ** 2) + (fake + 1) ** 2, (seen(state), {"real": real.mean()})

    def generator_loss(own, state, batch, rng):
        assert set(own) == {"generator"}
        fake = state.params["head"] * own["generator"] @ state.params["encoder"]
        return -fake * len(batch["x"]), (seen(state), {})

    def average(state, rng):
        return state.replace(buffers=state.buffers | {"ema": state.params["generator"]})

    return TwoPlayers(
        init, discriminator_loss, generator_loss, lambda params, buffers, batch: batch["x"],
        discriminator_steps=steps, before_update=average,
    )  # fmt: skip


def method(steps: int, **switches):
    return alternate(
        players(steps), {name: optax.sgd(rate) for name, rate in RATES.items()}, **switches
    )


def by_hand(x, w, h, g, steps):
    """One update in NumPy; (w, h, g, losses and squared gradients of the discriminator)."""
    losses, squares, reals = [], [], []
    for part in (x[i::steps] for i in range(steps)):
        real, fake = h * part @ w, h * g @ w
        losses.append(np.mean((real - 1) ** 2) + (fake + 1) ** 2)
        reals.append(real.mean())
        of_real, of_fake = 2 * (real - 1) / len(part), 2 * (fake + 1)
        grad_w = h * (of_real @ part + of_fake * g)
        grad_h = of_real @ (part @ w) + of_fake * (g @ w)
        squares.append(grad_w @ grad_w + grad_h**2)
        w, h = w - RATES["discriminator"] * grad_w, h - RATES["discriminator"] * grad_h
    grad_g = -h * w * len(x) / steps
    return (
        w,
        h,
        g - RATES["generator"] * grad_g,
        losses,
        squares,
        reals,
        -h * g @ w * len(x) / steps,
        np.linalg.norm(grad_g),
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_an_update_is_the_one_by_hand(steps):
    """The steps of the discriminator follow one another; the generator meets the last one."""
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32) * 0.3
    made = method(steps)
    state = made.init(jax.random.key(0), None)
    assert set(state.opt_state) == set(RATES)
    step = jax.jit(made.train_step)
    w, h, g = np.ones(3), 1.0, np.ones(3)
    for i in range(2):
        before = g
        state, metrics = step(state, {"x": x}, jax.random.key(i))
        w, h, g, losses, squares, reals, g_loss, g_norm = by_hand(x, w, h, g, steps)
        wanted = {"encoder": w, "head": h, "generator": g}
        chex.assert_trees_all_close(state.params, jax.tree.map(np.float32, wanted), rtol=1e-5)
        d_norm = np.mean(np.sqrt(squares))
        known = {
            "loss": np.mean(losses), "d_loss": np.mean(losses), "g_loss": g_loss,
            "d_grad_norm": d_norm, "g_grad_norm": g_norm, "grad_norm": np.hypot(d_norm, g_norm),
            "real": np.mean(reals), "d_update_norm": 0.1 * d_norm, "g_update_norm": 0.01 * g_norm,
            "skipped": 0, "skipped_consecutive": 0,
        }  # fmt: skip
        assert metrics.keys() == known.keys()
        for key, value in known.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(state.buffers["ema"], before, rtol=1e-6)
    assert state.step == 2 and state.buffers["losses"] == 2 * (steps + 1)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_bad_part_of_a_batch_skips_the_whole_update(steps):
    made = method(steps)
    state = made.init(jax.random.key(0), None)
    x = np.ones((4, 3), np.float32)
    x[0] = np.inf
    new, metrics = jax.jit(made.train_step)(state, {"x": x}, jax.random.key(0))
    assert new.step == 1 and new.skipped.tolist() == [1, 1] and metrics["skipped"] == 1
    for part in ("params", "opt_state"):
        chex.assert_trees_all_equal(getattr(new, part), getattr(state, part))
    assert new.buffers["losses"] == 0


def test_micro_batches_are_refused():
    with pytest.raises(UserError, match="config.accumulate=2: does not work with two .* to 1"):
        method(1, accumulate=2)
    with pytest.raises(UserError, match="config.grad_cache=True: .* set it to False"):
        method(1, grad_cache=True)


def config_of(**changes) -> Config:
    """SimCLR's config, with a section for a discriminator."""
    tree = load("configs/simclr_digits.py:tiny").copy_and_resolve_references().unlock()
    tree.optim_discriminator = changes
    return Config(tree.lock())


def updates(tx):
    params = {"kernel": jnp.ones((2, 2))}
    return tx.update(params, tx.init(params), params)[0]["kernel"]


def test_the_second_optimizer_differs_in_the_given_keys_alone():
    config = config_of(lr=0.5, name="sgd", momentum=0.0, weight_decay=0.0, schedule="constant")
    config = config.changed({"optim.warmup_steps": 0})
    both = optim.of_two_players(config)
    np.testing.assert_allclose(updates(both["discriminator"]), -0.5)
    np.testing.assert_array_equal(updates(both["generator"]), updates(optim.from_config(config)))
    assert not np.allclose(updates(both["generator"]), -0.5)
    assert not [key for key in config.unread() if "optim_discriminator" in key]
    assert set(learning_rates(config)) == {"lr", "d_lr"}
    np.testing.assert_allclose(learning_rates(config)["d_lr"], 0.5)
    alone = Config(load("configs/simclr_digits.py:tiny"))
    assert set(learning_rates(alone)) == {"lr"}
    same = optim.of_two_players(alone)
    np.testing.assert_array_equal(updates(same["discriminator"]), updates(same["generator"]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trust_clip": True}, "config.optim_discriminator.trust_clip=True: means nothing to"),
        ({"schedule": "stairs"}, "config.optim_discriminator.schedule='stairs': unknown"),
    ],
)
def test_a_message_names_the_section_of_the_key(changes, said):
    with pytest.raises(UserError, match=said):
        optim.of_two_players(config_of(**changes))


def test_another_optimizer_leaves_out_the_keys_that_only_the_old_one_has(tmp_path):
    """An override of optim.name must not leave beta of Adam in the second section."""
    text = "from jssl.recipes import recipe\ndef get_config(variant=''):\n"
    text += "  own = dict(lr=4e-4, b1=0.5)\n"
    text += "  optim = dict(name='adamw', lr=1e-4, b1=0.1)\n"
    text += "  return recipe(variant, dict(optim=optim, optim_discriminator=own))\n"
    (tmp_path / "two.py").write_text(text)
    tree = load(f"{tmp_path}/two.py", {"optim.name": "sgd"})
    assert tree.optim_discriminator.to_dict() == {"lr": 4e-4}
    tree = load(f"{tmp_path}/two.py", {"optim.name": "lamb"})
    assert tree.optim_discriminator.to_dict() == {"lr": 4e-4, "b1": 0.5}


def test_the_states_of_both_are_sharded_as_parameters(monkeypatch):
    monkeypatch.setattr("jssl.parallel.mesh.MIN_SHARD_SIZE", 1)
    devices = make_mesh(2, 4)
    for path in (
        "params/generator/layer1_0/conv1/kernel",
        "opt_state/discriminator/0/mu/encoder/layer1_0/conv1/kernel",
        "opt_state/generator/0/nu/generator/layer1_0/conv1/kernel",
        "buffers/ema/params/layer1_0/conv1/kernel",
    ):
        spec = mesh.partition_spec(path, (3, 3, 64, 128), devices)
        assert spec == P(None, None, "fsdp", None) or spec == P(None, None, None, "fsdp"), path
    assert mesh.partition_spec("buffers/stats/encoder/layer1_0/conv1/u", (128,), devices) == P()


def test_a_batch_is_cut_for_the_steps_of_the_discriminator():
    """Each device has a part of each step; a smaller batch is proposed, and no accumulation."""
    config = Config(load("configs/simclr_digits.py:tiny", {"batch_size": "40"}))
    run = Run(config, make_mesh(4), method(5), None, None, None, None)
    check_batch(run._replace(mesh=make_mesh(4)))
    with pytest.raises(UserError, match="multiple of 40 devices x steps of the discriminator"):
        check_batch(run._replace(mesh=make_mesh(8), config=config.changed({"batch_size": 48})))
    config = config.changed({"batch_size": 160})
    said = memory.advice(run._replace(config=config), 2**34, 2**33, batch=True)
    assert "try --config.batch_size=40" in said and "try --config.accumulate" not in said
    assert "or --config.accumulate=" not in said


def test_layer_decay_leaves_a_generator_alone():
    params = {"generator": {"layer1_0": jnp.ones(2)}}
    chex.assert_trees_all_equal(layer_scales(params, 0.5), jax.tree.map(lambda x: 1.0, params))
    both = {"encoder": {"layer1_0": jnp.ones(2)}, "head": jnp.ones(2)}
    scales = layer_scales(both, 0.5)
    assert scales["head"] == 1 and scales["encoder"]["layer1_0"] == 0.5
