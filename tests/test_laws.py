"""The laws, over every recipe of configs/ at its tiny size."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, make_mesh, recipes

from jssl.config import Config, load
from jssl.data.feed import Feed
from jssl.run import keys, prepare

EASY = {  # an optimizer under which any objective should fall within a few steps
    "optim.name": "adamw",
    "optim.lr": "0.003",
    "optim.lr_scaling": "none",
    "optim.schedule": "constant",
    "optim.warmup_steps": "0",
    "optim.clip": "0",
}
each_recipe = pytest.mark.parametrize("recipe", recipes())


class Small:
    """A recipe on a mesh: its run, its first state, its step and its batches."""

    def __init__(self, recipe, overrides=None, devices=None):
        config = Config(load(recipe, overrides))
        self.run = prepare(config, devices or make_mesh(1))
        feed = Feed(self.run.data, config.seed, config.batch_size, self.run.mesh, 0)
        self.batches = [feed.batch(feed.held, feed.next()) for _ in range(3)]
        feed.close()
        self.init = self.run.init
        rng = keys(config)[1]
        places = jax.tree.map(lambda leaf: leaf.sharding, self.run.shapes)
        fold = lambda state: jax.random.fold_in(rng, state.step)
        self.function = lambda s, b: self.run.method.train_step(s, b, fold(s))
        self.step = jax.jit(self.function, out_shardings=(places, None))

    def steps(self, count=3, batches=None):
        state, losses = self.init(), []
        for i in range(count):
            state, metrics = self.step(state, (batches or self.batches)[i % 3])
            losses.append(float(metrics["loss"]))
        return state, losses


def same(a, b):
    """Bit for bit."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="module")
def small():
    """recipe -> Small, made once a module."""
    return functools.cache(Small)


@each_recipe
def test_1_train_step_is_pure(recipe, small):
    one, two = small(recipe), Small(recipe)
    jaxpr = jax.make_jaxpr(one.function)(one.init(), one.batches[0])
    assert not jaxpr.effects
    before = np.random.get_state()[1].copy()
    (state, losses), (again, losses_again) = one.steps(), two.steps()
    assert jax.tree.structure(state) == jax.tree.structure(one.init())
    assert losses == losses_again
    same(state, again)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@each_recipe
def test_2_the_loss_falls(recipe):
    one = Small(recipe, EASY)
    _, losses = one.steps(24)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.02, losses


@each_recipe
def test_3_labels_never_reach_the_step(recipe, small):
    one = small(recipe)
    assert "label" in one.batches[0]
    other = [b | {"label": (b["label"] + 1) % 10} for b in one.batches]
    (state, losses), (again, losses_again) = one.steps(), one.steps(batches=other)
    assert losses == losses_again
    same(state, again)


@each_recipe
@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_4_eight_devices_equal_one(recipe, shape, small, monkeypatch):
    monkeypatch.setattr("jssl.mesh.SMALLEST", 1)  # tiny parameters are split too
    _, losses = small(recipe).steps()
    eight = Small(recipe, devices=make_mesh(*shape))
    state, split_losses = eight.steps()
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5)
    if shape[1] > 1:
        specs = [leaf.sharding.spec for leaf in jax.tree.leaves(state.params)]
        assert any("fsdp" in spec for spec in specs)


@each_recipe
def test_6_embed_depends_on_the_input(recipe, small):
    one = small(recipe)
    state = one.init()
    embed = jax.jit(one.run.method.embed)
    features = np.asarray(embed(state, one.batches[0]))
    assert features.shape[0] == one.run.config.batch_size and features.ndim == 2
    assert np.isfinite(features).all()
    assert np.abs(features - np.asarray(embed(state, one.batches[1]))).max() > 1e-4
    assert features.std(axis=0).max() > 1e-5


KILLED = """
import os, signal, sys
from jssl import cli, train
plain = train.saver
def deadly(saves, knn, steps):
    save = plain(saves, knn, steps)
    def observe(step, state, metrics):
        save(step, state, metrics)
        if step == 3:
            saves.wait()
            os.kill(os.getpid(), signal.SIGKILL)
    return observe
train.saver = deadly
cli.main(sys.argv[1:])
"""


def process(*words, **environ):
    """A new process with one device; the environment's XLA flags are the tests' own."""
    env = {**os.environ, "XLA_FLAGS": "", **environ}
    return subprocess.run(
        [sys.executable, *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def result(done) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@each_recipe
def test_5_a_killed_run_goes_on_bit_for_bit(recipe, tmp_path):
    command = ["train", f"--config={recipe}", "--config.eval.every=0"]
    whole = result(process("-m", "jssl.cli", *command, f"--workdir={tmp_path}/whole"))
    killed = process("-c", KILLED, *command, f"--workdir={tmp_path}/killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert (pathlib.Path(tmp_path) / "killed" / "checkpoints" / "2").is_dir()
    resumed = process("-m", "jssl.cli", *command, f"--workdir={tmp_path}/killed")
    assert "step 3/6" in resumed.stderr and "step 2/6" not in resumed.stderr, resumed.stderr
    for key in ("step", "loss", "params_sha256"):
        assert result(resumed)[key] == whole[key], key
