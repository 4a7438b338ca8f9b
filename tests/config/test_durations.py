"""Durations in epochs, examples and shares of a run mean the steps that they say."""

import json

import pytest

from jssl.config import UserError, durations, load, schema, values
from jssl.data.sources import digits
from jssl.training.loop import train
from jssl.workdir import claim

TINY = "configs/simclr_digits.py:tiny"
SWAV = "configs/swav_cifar10.py:tiny"


def config(**changed):
    return load(TINY, {key.replace("__", "."): value for key, value in changed.items()})


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7", 7),
        ("7 steps", 7),
        ("1 step", 1),
        ("3 epochs", 37),  # 3 * 800 / 64 = 37.5
        ("0.04 epochs", 1),  # half a step
        ("0 epochs", None),
        ("6400 examples", 100),
        ("1e4 examples", 156),
        (" 1.5epochs ", 18),
    ],
)
def test_steps_of_a_run(text, steps):
    given = config(steps=text, batch_size="64")
    if steps is None:
        with pytest.raises(UserError, match="config.steps='0 epochs': 0 steps .* at least 1"):
            durations.resolved(given, 800)
    else:
        assert durations.resolved(given, 800).steps == steps


def test_every_key_that_counts_steps_may_be_a_duration():
    """Asked of the schema and of a method's own keys, so that no new key is forgotten."""
    whole = load(SWAV, {"steps": "10 epochs", "batch_size": "10"})
    keys = [
        f"{section}.{name}"
        for section, kinds in schema.SECTIONS.items()
        for name, kind in kinds.items()
        if section in whole and values.counts_steps(kind)
    ]
    assert {"optim.warmup_steps", "eval.every", "checkpoint.every", "log.rank_every"} <= set(keys)
    assert {"optim.freeze_steps", "log.profile_step", "log.render_every"} <= set(keys)
    for key in [*keys, "queue_start"]:
        for text, steps in (("1 epoch", 20), ("10 percent", 20), ("5%", 10), ("0 steps", 0)):
            given = load(SWAV, {"steps": "10 epochs", "batch_size": "10", key: text})
            schema.check(given)
            done = durations.resolved(given, 200)
            section, _, name = key.rpartition(".")
            assert (done[section] if section else done)[name] == steps, key
    assert durations.resolved(whole, 200).batch_size == 10


def test_another_batch_size_leaves_nothing_stale():
    small, large = (
        durations.resolved(
            config(steps="4 epochs", optim__warmup_steps="25 %", batch_size=str(size)), 800
        )
        for size in (8, 16)
    )
    assert (small.steps, small.optim.warmup_steps) == (400, 100)
    assert (large.steps, large.optim.warmup_steps) == (200, 50)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("steps", "10 percent", "a share of itself"),
        ("eval.every", "ten epochs", "config.eval.every='ten epochs': must be of type int"),
        ("batch_size", "10 epochs", "config.batch_size='10 epochs': must be of type int"),
        ("optim.lr", "10 percent", "config.optim.lr='10 percent': must be of type float"),
        ("eval.every", "99999999999 epochs", "must be at most 2147483647"),
    ],
)
def test_what_is_no_duration_is_refused(key, text, message):
    with pytest.raises(UserError, match=message):
        given = config(**{key.replace(".", "__"): text})
        schema.check(given)
        durations.resolved(given, 800)


def test_a_recipe_may_hold_a_word_that_is_none():
    given = config().copy_and_resolve_references().unlock()
    with given.ignore_type():
        given.eval.every = "often"
    with pytest.raises(UserError, match="config.eval.every='often': no duration; write steps"):
        schema.check(given)


def test_a_number_may_follow_a_duration_of_the_recipe():
    assert load("configs/photos.py").steps == "100 epochs"
    assert load("configs/photos.py", {"steps": "500"}).steps == 500
    assert load("configs/photos.py", {"steps": "2 epochs"}).steps == "2 epochs"
    odd = load("configs/photos.py", {"steps": "²"})  # a digit for str.isdigit, none for int
    with pytest.raises(UserError, match="config.steps='²': no duration; write steps"):
        schema.check(odd)


def test_a_run_in_epochs_is_the_run_in_steps(tmp_path):
    """config.json holds steps, and no text; the same command finds its result, and goes on
    with --extend."""
    examples = len(digits.load("train")[0]) * 3 // 100  # as the recipe's variant takes
    few = {"batch_size": "64", "eval.every": "0", "data.on_device": "True"}
    texts = few | {"steps": "1 epoch", "optim.warmup_steps": "50 %", "checkpoint.every": "1"}
    steps = examples // 64
    one = train(load(TINY, texts), tmp_path / "a")
    assert one["step"] == steps
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    assert stored["config"]["steps"] == steps
    assert stored["data_info"]["num_examples"] == examples
    assert stored["config"]["optim"]["warmup_steps"] == steps // 2
    assert train(load(TINY, texts), tmp_path / "a") == one
    longer = texts | {
        "steps": f"{(steps + 1) * 64} examples",
        "optim.warmup_steps": str(steps // 2),
    }
    with pytest.raises(UserError, match=f"config.steps={steps}, not {steps + 1}; add --extend"):
        claim.TrainingFolder(tmp_path / "a").open(load(TINY, longer))
    claim.TrainingFolder(tmp_path / "a").open(load(TINY, longer), extend=True)
