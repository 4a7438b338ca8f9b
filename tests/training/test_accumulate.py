"""Micro-batches: GradCache equals the whole batch, and what happens once an update happens once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import in_make_laws, make_mesh
from helpers import image_info

from jssl.config import Config, UserError, load
from jssl.methods import simclr
from jssl.training import gradients
from jssl.training.setup import rng_keys, setup_run

# Views without chance and a network without BatchNorm: nothing then depends on how a batch is cut.
STILL = {
    "augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)",
    "augment.flip_prob": "0",
    "augment.jitter_prob": "0", "augment.gray_prob": "0", "augment.solarize_prob": "0",
}  # fmt: skip
VIT = {"name": "vit_test", "patch": 8, "image_size": 32, "class_token": True, "pool": "cls",
       "positions": "learned", "drop_path": 0.0, "remat": "none", "scan": False,
       "attention": "auto", "init": "trunc02", "dtype": "float32",
       "residual_dtype": "float32"}  # fmt: skip


def run_of(recipe, **changes):
    tree = load(f"configs/{recipe}_cifar10.py:tiny", STILL)
    with tree.unlocked():
        tree.model = VIT
        tree.head.norm = tree.head.last_norm = False
        tree.optim.lr_scaling = "none"
        if "augment_second_view" in tree:
            tree.augment_second_view = {"solarize_prob": 0.0}
        for key, value in changes.items():
            tree[key] = value
    return setup_run(Config(tree), make_mesh(1))


def update_of(run, state, batch):
    """(gradient norm, loss, parameters, buffers) after one step."""
    after, metrics = jax.jit(run.method.train_step)(state, batch, rng_keys(run.config)[1])
    return metrics, after


def batch_of(run, n=16):
    batch = run.data.source.read(np.arange(n))
    batch.pop("damaged")
    return batch


@pytest.mark.parametrize("recipe", ["simclr", pytest.param("moco", marks=in_make_laws)])
def test_grad_cache_equals_the_large_batch(recipe):
    """The law: loss, gradient and buffers within 1e-5; plain accumulation gives another loss."""
    extra = {"bn_splits": 1} if recipe == "moco" else {}
    whole = run_of(recipe, **extra)
    cached = run_of(recipe, **extra, accumulate=4, grad_cache=True)
    plain = run_of(recipe, **extra, accumulate=4)
    state, batch = whole.init(), batch_of(whole)
    (one, after), (four, after_four) = (update_of(run, state, batch) for run in (whole, cached))
    np.testing.assert_allclose(four["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(four["grad_norm"], one["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(four["alignment"], one["alignment"], rtol=1e-4, atol=1e-9)
    found = (after_four.params, after_four.buffers)
    wanted = (after.params, after.buffers)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)
    if recipe == "simclr":  # MoCo's loss is a mean over examples: its negatives are the queue's
        assert abs(update_of(plain, state, batch)[0]["loss"] / one["loss"] - 1) > 3e-4


def test_grad_cache_with_batch_norm_is_exact_for_its_own_forward_pass():
    """With BatchNorm by micro-batch, the gradient is that of the loss of those very outputs."""
    config = Config(load("configs/simclr_cifar10.py:tiny"))
    run = setup_run(config, make_mesh(1))
    state, batch, rng, n = run.init(), batch_of(run), jax.random.key(5), 2
    objective = simclr.build(config, image_info())
    encode, compare = objective.stages

    def direct(params):
        rng_encode, rng_compare = jax.random.split(rng)
        parts, ks = gradients.split_microbatches(batch, n), jax.random.split(rng_encode, n)
        outs = [
            encode(params, state, jax.tree.map(lambda x, i=i: x[i], parts), ks[i])[0]
            for i in range(n)
        ]
        z = gradients.merge_microbatches(jnp.stack(outs), len(batch["image"]) // n)
        return compare(params, z, state, batch, rng_compare)[0]

    wanted, grads = jax.jit(jax.value_and_grad(direct))(state.params)
    cached = jax.jit(lambda s: gradients.grad_cache_gradient(objective, s, batch, rng, n=n))
    (value, _), found = cached(state)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    chex.assert_trees_all_close(found, grads, rtol=1e-3, atol=1e-4)


def test_grad_cache_with_batch_norm_is_another_gradient_and_says_so(caplog):
    """How far from the whole batch's, with views without chance. Without BatchNorm nothing is said;
    the test above has its gradient."""

    def gradient_of(n, norm):
        tree = load("configs/simclr_cifar10.py:tiny", STILL)
        with tree.unlocked():
            tree.accumulate, tree.grad_cache = n, n > 1
            if not norm:
                tree.model = VIT
                tree.head.norm = tree.head.last_norm = False
        run = setup_run(Config(tree), make_mesh(1))
        gradients.warn_of_norm.cache_clear()
        return run, gradients.gradient_fn(objective_of(tree), n, n > 1)

    def said():
        return [x.getMessage() for x in caplog.records if "grad_cache" in x.getMessage()]

    caplog.set_level("WARNING", logger="jssl")
    run, gradient = gradient_of(4, norm=False)
    jax.eval_shape(gradient, run.shapes, batch_of(run), jax.random.key(5))
    assert not said()
    found = []
    for n in (1, 4):
        run, gradient = gradient_of(n, norm=True)
        found.append(jax.jit(gradient)(run.init(), batch_of(run), jax.random.key(5))[1])
    one, four = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in found)
    assert jnp.linalg.norm(four - one) / jnp.linalg.norm(one) > 0.1
    (line,) = said()
    assert "4 examples, not from all 16" in line and "norm=False" in line


def objective_of(tree):
    """The Objective of SimCLR with this config."""
    return simclr.build(Config(tree), image_info())


def test_dealt_and_gathered_is_the_batch():
    x = jnp.arange(24).reshape(12, 2)
    views = jnp.repeat(x, 2, axis=0)
    dealt = gradients.split_microbatches(x, 3)
    assert dealt.shape == (3, 4, 2) and dealt[1, 0, 0] == x[1, 0]
    outputs = jnp.stack([jnp.repeat(part, 2, axis=0) for part in dealt])
    np.testing.assert_array_equal(gradients.merge_microbatches(outputs, 4), views)


@pytest.mark.parametrize("grad_cache", [True, False])
def test_the_target_follows_once_an_update(grad_cache):
    """However many micro-batches: a target that moved with each would be nearer to the weights."""
    changes = {"ema_decay": 0.5, "ema_decay_final": 0.5}
    one = run_of("byol", **changes)
    four = run_of("byol", **changes, accumulate=4, grad_cache=grad_cache)
    state, batch = one.init(), batch_of(one)
    moved = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
    found = [update_of(run, moved, batch)[1].buffers["teacher"] for run in (one, four)]
    chex.assert_trees_all_close(*found, rtol=1e-6)

    def kernel(tree):
        return np.asarray(tree["encoder"]["patch_embed"]["kernel"])

    np.testing.assert_allclose(kernel(found[1]), kernel(state.params) + 0.5, rtol=1e-5)


def test_grad_cache_says_what_it_needs():
    with pytest.raises(UserError, match="needs config.accumulate above 1"):
        run_of("simclr", grad_cache=True)
    words = {"accumulate": "2", "grad_cache": "true"}
    with pytest.raises(UserError, match="split in two"):
        setup_run(Config(load("configs/mae_imagenette.py:tiny", words)), make_mesh(1))
