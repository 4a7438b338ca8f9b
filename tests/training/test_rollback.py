"""Updates that are not finite: skipped, rolled back, given up with the examples named."""

import contextlib
import json
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.config import Config, UserError, load
from jssl.data.sampling import data_offset, indices
from jssl.training import loop as training
from jssl.training.loop import train
from jssl.training.rollback import Diverged, NonFinite
from jssl.training.setup import rng_keys, setup_run

METHOD = '''
"""A linear autoencoder whose loss is not a number where an example of BAD is in the batch."""

import jax
import jax.numpy as jnp

from jssl.core import Objective

BAD = {bad}


def build(config, data_info):
    flat = lambda batch: batch["image"].reshape(len(batch["image"]), -1) / 255.0

    def init(rng, batch):
        w = 0.05 * jax.random.normal(rng, (flat(batch).shape[1], 4))
        return {{"encoder": {{"w": w}}}}, {{"mean": jnp.zeros(())}}

    def loss(params, state, batch, rng):
        x, w = flat(batch), params["encoder"]["w"]
        bad = jnp.isin(batch["index"], jnp.array(BAD)).any()
        value = jnp.square(x @ w @ w.T - x).mean() + jnp.where(bad, jnp.nan, 0.0)
        return value, ({{"mean": x.mean() + jnp.where(bad, jnp.nan, 0.0)}}, {{}})

    embed = lambda params, buffers, batch: flat(batch) @ params["encoder"]["w"]
    return Objective(init, loss, embed)
'''
RECIPE = """
from jssl.recipes import recipe


def get_config(variant=""):
    return recipe(variant, dict(
        method="{name}", steps=12, batch_size=16,
        data=dict(source="digits", max_side=32), optim=dict(name="sgd", lr=0.1),
        checkpoint=dict(every=2, keep_latest=20, keep_best=0), log=dict(every=1, tensorboard=False),
        alarm=dict(max_consecutive_nonfinite=3, max_rollbacks=1),
    ))
"""
EXAMPLES = len(setup_run(Config(load("configs/simclr_digits.py"))).data.source)


def AT(*steps):
    return [int(indices(0, step, EXAMPLES, 16)[0]) for step in steps]


def recipe(folder, monkeypatch, bad, **changes):
    """The config of a method that is poisoned by the examples `bad`."""
    name = f"poisoned_{abs(hash(tuple(bad)))}"
    (folder / name).mkdir()
    (folder / name / "method.py").write_text(METHOD.format(bad=bad))
    (folder / "recipe.py").write_text(RECIPE.format(name=f"{name}.method"))
    monkeypatch.syspath_prepend(str(folder))
    for known in (name, f"{name}.method"):
        sys.modules.pop(known, None)
    return load(str(folder / "recipe.py"), {k.replace("__", "."): v for k, v in changes.items()})


def test_a_bad_update_is_skipped_and_counted(tmp_path, monkeypatch):
    """Nothing but the step and the counters moves; the next good one moves on."""
    run = setup_run(Config(recipe(tmp_path, monkeypatch, AT(0))))
    rng, step = rng_keys(run.config)[1], jax.jit(run.method.train_step)
    first = run.init()
    batches = [run.data.source.read(indices(0, i, EXAMPLES, 16)) for i in (0, 1)]
    state, metrics = step(first, batches[0], rng)
    assert np.isnan(metrics["loss"]) and metrics["skipped_consecutive"] == metrics["skipped"] == 1
    assert state.step == 1 and state.skipped.tolist() == [1, 1]
    for part in ("params", "opt_state", "buffers"):
        chex.assert_trees_all_equal(getattr(state, part), getattr(first, part))
    state, _ = step(state, batches[0], rng)
    assert state.skipped.tolist() == [2, 2]
    state, metrics = step(state, batches[1], rng)
    assert state.skipped.tolist() == [0, 2] and np.isfinite(metrics["loss"])
    assert (state.params["encoder"]["w"] != first.params["encoder"]["w"]).any()
    assert np.isfinite(state.buffers["mean"]) and state.buffers["mean"] > 0


def test_a_lone_bad_batch_is_passed_without_a_rollback(tmp_path, monkeypatch):
    found = train(recipe(tmp_path, monkeypatch, AT(4)), tmp_path / "run")
    assert found["step"] == 12 and found["skipped_updates"] == 1 and np.isfinite(found["loss"])
    assert not (tmp_path / "run" / "skipped_data.json").exists()


def test_a_row_of_them_rolls_back_past_their_examples_and_resumes_exactly(tmp_path, monkeypatch):
    """Steps 7 to 9 are bad, so is the data of step 10: back to 6, on with that of step 10."""
    tree, folder = recipe(tmp_path, monkeypatch, AT(6, 7, 8, 9)), tmp_path / "run"
    found = train(tree, folder)
    assert json.loads((folder / "skipped_data.json").read_text()) == [[6, 3]]
    assert found["step"] == 12 and found["skipped_updates"] == 1 and np.isfinite(found["loss"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["step"] > 5][-6:] == [7, 8, 9, 10, 11, 12]
    # Killed after step 8, and resumed:
    (folder / "result.json").unlink()
    for step in (10, 12):
        (folder / "checkpoints" / str(step)).rename(tmp_path / f"gone-{step}")
    again = train(tree, folder)
    assert [again[key] for key in ("step", "params_sha256", "loss")] == [
        found[key] for key in ("step", "params_sha256", "loss")
    ]


def test_a_resume_from_below_a_pass_goes_the_same_way(tmp_path, monkeypatch):
    """As above, but killed when no checkpoint of the steps since the pass is left: from 4 on the
    data of step 6 is again that of step 9, and the run rolls back no second time."""
    tree, folder = recipe(tmp_path, monkeypatch, AT(6, 7, 8, 9)), tmp_path / "run"
    found = train(tree, folder)
    (folder / "result.json").unlink()
    for step in (6, 8, 10, 12):
        (folder / "checkpoints" / str(step)).rename(tmp_path / f"gone-{step}")
    assert train(tree, folder)["params_sha256"] == found["params_sha256"]
    assert json.loads((folder / "skipped_data.json").read_text()) == [[6, 3]]


def test_a_signal_amid_bad_updates_is_a_signal(tmp_path, monkeypatch):
    """What is written last, after the save, rings no alarm."""
    tree = recipe(tmp_path, monkeypatch, AT(*range(6, 40)), log__every="10", steps="40")

    def asked():
        return contextlib.nullcontext(lambda step: "SIGTERM" if step == 15 else "")

    monkeypatch.setattr(training, "stop_on_signal", asked)
    with pytest.raises(SystemExit, match="75"):
        train(tree, tmp_path / "run")


def test_a_rollback_holds_resident_data_once_and_a_profile_may_begin_again(tmp_path, monkeypatch):
    bad, sizes, loop = AT(6, 7, 8, 9), [], training.loop
    changes = {"data__on_device": "True", "log__profile_step": "7"}
    tree = recipe(tmp_path, monkeypatch, bad, **changes)

    def measured(*given, **options):
        sizes.append(sum(x.nbytes for x in jax.live_arrays() if x.dtype == np.uint8))
        return loop(*given, **options)

    monkeypatch.setattr(training, "loop", measured)
    train(tree, tmp_path / "run")
    assert sizes[0] == sizes[1] > 0 and len(sizes) == 2
    assert (tmp_path / "run" / "profile").is_dir()


def test_what_stays_bad_ends_with_the_examples_named(tmp_path, monkeypatch):
    tree, folder = recipe(tmp_path, monkeypatch, AT(*range(6, 20))), tmp_path / "run"
    with pytest.raises(UserError, match="after 1 rollbacks; .*nonfinite.json; try a lower"):
        train(tree, folder)
    bad = json.loads((folder / "nonfinite.json").read_text())
    assert bad == {str(k): indices(0, k + 3, EXAMPLES, 16).tolist() for k in (6, 7, 8)}


def test_without_a_checkpoint_from_before_it_ends_at_once(tmp_path, monkeypatch):
    tree = recipe(tmp_path, monkeypatch, AT(*range(20)), checkpoint__every="100")
    with pytest.raises(UserError, match="no checkpoint from before is left"):
        train(tree, tmp_path / "run")


def test_the_sink_warns_and_raises(caplog):
    sink = NonFinite(limit=3)
    sink(10, {"skipped": 0, "skipped_consecutive": 0})
    sink(20, {"skipped": 2, "skipped_consecutive": 2})
    assert "2 updates were not finite" in caplog.text
    with pytest.raises(Diverged, match="3 updates in a row"):
        sink(30, {"skipped": 3, "skipped_consecutive": 3})
    NonFinite(limit=0)(30, {"skipped": 9, "skipped_consecutive": 9})


def test_lead():
    assert [data_offset([[6, 3], [10, 7]], step) for step in (0, 5, 6, 9, 10, 99)] == [
        0,
        0,
        3,
        3,
        7,
        7,
    ]


def test_finite_states_are_passed_through_bit_for_bit():
    from jssl.core import TrainState
    from jssl.training.gradients import skip_nonfinite

    old = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {"m": jnp.ones(2)}, {})
    new = TrainState(jnp.int32(4), {"w": jnp.array([0.1, -0.0])}, {"m": jnp.zeros(2)}, {})
    state, _ = skip_nonfinite(new, old, {"loss": jnp.float32(1), "grad_norm": jnp.float32(2)})
    assert state.params["w"].tobytes() == new.params["w"].tobytes()
