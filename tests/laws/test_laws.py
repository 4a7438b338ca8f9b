"""The laws, over every recipe of configs/ at its tiny size."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from conftest import ALL, BY_METHOD, FAST, ROOT, make_mesh, recipes
from helpers.laws import EASY, GENTLE, SECOND_RATE, Small, for_both, losses
from jax.interpreters import partial_eval

from jssl.config import Config, load
from jssl.parallel import mesh
from jssl.training.setup import setup_run
from jssl.workdir.checkpoint import Checkpoints

# Each clustering of DeepCluster draws a new classifier, so a loss falls only until the next one.
ONE_CLUSTERING = {"cluster_every": "30", "optim.freeze_steps": "30"}
# Whitening 16 examples along more axes than they span multiplies their rounding.
FEW_AXES = {"pca_dims": "4"}
# Two players pull at one loss: that of a discriminator falls while the generator stands still.
STILL_GENERATOR = {"optim.lr": "1e-9", SECOND_RATE: EASY["optim.lr"]}
NEAR_ZERO = 1e-6  # a loss may be a difference, as SimSiam's, which begins at .01
# Every recipe obeys every law: `make laws`. `make test`, which should take minutes, asks one recipe
# of each of some methods whose states differ in kind (a recipe of every other method is traced by
# test_config.py), and has a process killed for one of them; test_scale.py has pairs.
KINDS = ("deepcluster", "dino", "mae")


def each(chosen):
    """A test for each recipe."""
    return pytest.mark.parametrize("recipe", list(chosen))


each_recipe = each(recipes() if ALL else [BY_METHOD[name] for name in KINDS])
each_falling = each(recipes() if ALL else [BY_METHOD["mae"]])
each_process = each(BY_METHOD.values() if ALL else [BY_METHOD["simclr"]])
each_method = each(BY_METHOD.values() if ALL else [])


@functools.lru_cache(maxsize=1)
def known(recipe):
    jax.clear_caches()  # hundreds of programs in one process exhaust what a process may map
    return Small(recipe)


@pytest.fixture
def small():
    """recipe -> Small, made once for the tests of a recipe, which follow one another."""
    return known


@each_recipe
def test_1_train_step_is_pure(recipe, small):
    one, two = small(recipe), Small(recipe)
    assert not one.traced.jaxpr.effects
    before = np.random.get_state()[1].copy()
    (state, losses), (again, losses_again) = one.steps(), two.steps()
    assert jax.tree.structure(state) == jax.tree.structure(one.first)
    assert losses == losses_again
    chex.assert_trees_all_equal(state, again)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@each_falling
def test_2_the_loss_falls(recipe):
    more = ONE_CLUSTERING if "deepcluster_cifar10" in recipe else {}
    more = STILL_GENERATOR if "optim_discriminator" in load(recipe) else more
    one = Small(recipe, EASY | more)
    _, losses = one.steps(60, one.batches[:1] * 3)
    assert np.isfinite(losses).all()
    begin = np.flatnonzero(losses)[0] + 4  # a queue is random before; no labels, no loss
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[begin : begin + 10]), losses


@each_recipe
def test_3_labels_never_reach_the_step(recipe, small):
    one = small(recipe)
    config = one.run.config  # the one exception, below
    assert "labels" not in config or config.labels is False
    image = "image" in one.batches[0]  # rows of text have no labels
    assert image == ("label" in one.batches[0])

    def fresh(b):
        return (b["label"] + 1) % 10 if image else b["index"]

    other = [b | {"label": fresh(b)} for b in one.batches]
    step = one.step if image else one.jitted  # what is compiled takes no more than it was made for
    (state, losses), (again, losses_again) = one.steps(), one.steps(batches=other, step=step)
    assert losses == losses_again
    chex.assert_trees_all_equal(state, again)


@pytest.mark.parametrize("labels", [False, True])
def test_3_only_config_labels_lets_labels_reach_the_step(labels):
    """The one exception is a class-conditional method: with labels=True the step depends on them.
    The same recipe with labels=False does not; nor does any `embed`."""
    words = {"labels": str(labels), "discriminator_steps": "1"}
    config = Config(load("configs/biggan_cifar10.py:conditional+tiny", words))
    run = setup_run(config, make_mesh(1))
    batch = jax.tree.map(lambda x: np.repeat(x, 8, axis=0), run.example)
    state = run.shapes
    assert reads_labels(run.method.train_step, state, batch, jax.random.key(0)) == labels
    assert not reads_labels(run.method.embed, state, batch)


def reads_labels(function, state, batch, *more):
    """Whether a result of ``function(state, batch, ...)`` depends on the labels of the batch."""
    jaxpr = jax.make_jaxpr(function)(state, batch, *more).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    arguments = jax.tree.unflatten(jax.tree.structure((state, batch, *more)), used)
    return arguments[1]["label"]


@each_recipe
def test_4_eight_devices_equal_one(recipe, small, monkeypatch):
    """Loss, gradient and buffers of the first step; parameters are split over two axes too."""
    equal_on(recipe, small, monkeypatch, (2, 2, 2))


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1)])
@each_method
def test_4_other_meshes_equal_one(recipe, axes, small, monkeypatch):
    equal_on(recipe, small, monkeypatch, axes)


def equal_on(recipe, small, monkeypatch, axes):
    """What lies on the kink of a ReLU, or ties in a max, may round to either side and move a
    gradient by a per cent; then the next batch must agree."""
    monkeypatch.setattr("jssl.parallel.mesh.MIN_SHARD_SIZE", 1)
    one = small(recipe)
    eight = Small(recipe, devices=make_mesh(*axes), like=one)
    try:
        one_step_equal(one, eight, axes, 0)
    except AssertionError:
        one_step_equal(one, eight, axes, 1)
    # No device repeats the work of another one, but for what a batch has in common: the update of
    # a tiny network is a fourth of its batch's work (MAE), a tower twice that (MoCo).
    assert mesh.batch_parts(eight.run.mesh) * eight.work() < 1.5 * one.work()


def one_step_equal(one, eight, axes, i):
    (alone_state, (alone,)), (state, (split,)) = (
        small.trace(1, small.batches[i : i + 1]) for small in (one, eight)
    )
    np.testing.assert_allclose(split["loss"], alone["loss"], rtol=1e-5, atol=NEAR_ZERO)
    np.testing.assert_allclose(split["grad_norm"], alone["grad_norm"], rtol=1e-3)
    chex.assert_trees_all_close(state.buffers, alone_state.buffers, rtol=1e-3, atol=1e-5)
    used = {axis for leaf in jax.tree.leaves(state.params) for axis in leaf.sharding.spec}
    assert ("fsdp" in used) == (axes[1] > 1)
    if "blocks" in state.params["encoder"]:  # only transformers have layers to split so
        assert ("tensor" in used) == (axes[2] > 1)


@each_method
def test_4_data_parallel_over_some_steps(recipe):
    one = Small(recipe, GENTLE)
    eight = Small(recipe, GENTLE, devices=make_mesh(8), like=one)
    for a, b in zip(one.trace()[1], eight.trace()[1], strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5, atol=NEAR_ZERO)
        np.testing.assert_allclose(b["grad_norm"], a["grad_norm"], rtol=1e-3)


@each_recipe
def test_5_a_saved_state_goes_on_bit_for_bit(recipe, small, tmp_path):
    """Through a real checkpoint, in fresh objects; the next test does it in a new process."""
    one = small(recipe)
    again = Small(recipe, like=one)
    straight, _ = one.trace(3)
    saves = Checkpoints(tmp_path, every=1, keep_latest=1, keep_best=0)
    saves.save(2, one.trace(2)[0], None)
    saves.close()
    saves = Checkpoints(tmp_path, every=1, keep_latest=1, keep_best=0)
    state = saves.restore(again.run.shapes)
    saves.close()
    chex.assert_trees_all_equal(again.step(state, again.batches[2])[0], straight)


@each_recipe
def test_6_embed_depends_on_the_input(recipe, small):
    one = small(recipe)
    state = one.first
    embed = jax.jit(one.run.method.embed)
    features = np.asarray(embed(state, one.batches[0]))
    assert features.shape[0] == one.run.config.batch_size and features.ndim == 2
    assert np.isfinite(features).all()
    assert np.abs(features - np.asarray(embed(state, one.batches[1]))).max() > 1e-4
    assert features.std(axis=0).max() > 1e-5


KILLED = """
import os, signal, sys
from jssl import cli
from jssl.training import loop
command, folder = sys.argv[1:-1], sys.argv[-1]
assert cli.main([*command, f"--workdir={folder}/whole"]) == 0
plain = loop.saver
def deadly(saves, probes, steps):
    save = plain(saves, probes, steps)
    def observe(step, state, metrics):
        save(step, state, metrics)
        if step == 3:
            saves.wait()
            os.kill(os.getpid(), signal.SIGKILL)
    return observe
loop.saver = deadly
cli.main([*command, f"--workdir={folder}/killed"])
"""


def process(*words, **environ):
    """A new process with one device; the environment's XLA flags are the tests' own."""
    env = {**os.environ, "XLA_FLAGS": FAST, **environ}
    return subprocess.run(
        [sys.executable, *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def result(done) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@each_process
def test_5_a_killed_run_goes_on_bit_for_bit(recipe, tmp_path):
    """One process trains a whole run, then another one and is killed in it; a new one resumes."""
    command = ["train", f"--config={recipe}", "--config.eval.every=0"]
    killed = process("-c", KILLED, *command, str(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert (tmp_path / "killed" / "checkpoints" / "2").is_dir()
    resumed = process("-m", "jssl", *command, f"--workdir={tmp_path}/killed")
    assert "step 3/6" in resumed.stderr and "step 2/6" not in resumed.stderr, resumed.stderr
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    for key in ("step", "loss", "params_sha256"):
        assert result(resumed)[key] == whole[key], key


@each_method
def test_4_two_processes_equal_one(recipe, tmp_path):
    """Also: both write one checkpoint, evaluate together, and one process reads it back."""
    words = ["-m", "jssl", "train", f"--config={recipe}", "--config.steps=5"]
    gentle = for_both(recipe, GENTLE | (FEW_AXES if "deepcluster_cifar10" in recipe else {}))
    words += [f"--config.{key}={value}" for key, value in gentle.items()]
    alone = result(process(*words, f"--workdir={tmp_path}/one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {
        **os.environ,
        "XLA_FLAGS": FAST,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    command = [sys.executable, *words, f"--workdir={tmp_path}/two"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    pair = [
        subprocess.Popen(command, env=env | {"JAX_PROCESS_ID": str(i)}, **pipes) for i in range(2)
    ]
    ends = [(*one.communicate(timeout=240), one.returncode) for one in pair]
    assert [code for *_, code in ends] == [0, 0], ends[0][1][-2000:] + ends[1][1][-2000:]
    both = [json.loads(out.splitlines()[-1]) for out, *_ in ends]
    assert both[0]["params_sha256"] == both[1]["params_sha256"]
    rows = [losses(tmp_path / name) for name in ("one", "two")]
    assert rows[0].keys() == rows[1].keys() == set(range(1, 6))
    for step, (loss, grad_norm) in rows[0].items():
        np.testing.assert_allclose(rows[1][step][0], loss, rtol=1e-5, atol=NEAR_ZERO)
        np.testing.assert_allclose(rows[1][step][1], grad_norm, rtol=1e-3)
    if alone["knn_top1"] is not None:  # packed text has no labels
        np.testing.assert_allclose(both[0]["knn_top1"], alone["knn_top1"], atol=0.02)
