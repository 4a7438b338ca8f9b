"""What a run prints when it begins and when it ends, and what its result says of a bad end."""

import collections
import json
import logging
import shlex
import types

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import text_info
from helpers.command import jssl, own_images

from jssl.commands.arguments import arguments
from jssl.config import Config, UserError, load
from jssl.data import files
from jssl.data.text import tokenizer
from jssl.training import result, summary
from jssl.training.observers import Traces, profiler
from jssl.training.outbox import Outbox
from jssl.training.visualize import Album, Rendered

TINY = "configs/simclr_digits.py:tiny"
State = collections.namedtuple("State", "step skipped params")


def state(step: int, skipped: int, row: int = 0) -> State:
    return State(jnp.int32(step), jnp.array([row, skipped], jnp.int32), {"w": jnp.zeros(2)})


@pytest.mark.parametrize(("step", "skipped", "fails"), [(6, 6, True), (6, 5, False), (0, 0, False)])
def test_a_run_that_learned_nothing_is_no_success(step, skipped, fails):
    config = Config(load(TINY))
    if not fails:
        result.check_updates(state(step, skipped), config)
        return
    with pytest.raises(
        UserError, match="none of the 6 updates was finite.*lower --config.optim.lr"
    ):
        result.check_updates(state(step, skipped), config)


@pytest.mark.parametrize("known", [True, False])
def test_a_loss_that_is_not_known_has_a_note(monkeypatch, caplog, known):
    monkeypatch.setattr(result, "params_sha256", lambda params: "0" * 64)
    recorder = types.SimpleNamespace(
        seen={"loss": (5, 1.5)} if known else {},
        last={"loss": float("inf")} if known else {},
        examples_per_s=lambda: 10.06,
        dropped=lambda: 3,
    )
    probes = types.SimpleNamespace(found={"knn_top1": 0.5}, at=4, failed=2)
    feeds = [types.SimpleNamespace(damaged=[1, 2]), types.SimpleNamespace(damaged=[2])]
    values = result.outcome(state(6, 1), recorder, probes, feeds)
    json.dumps(values, allow_nan=False)
    assert values["loss"] is None
    assert ("not finite (inf)" if known else "metrics.jsonl has no loss") in values["loss_note"]
    assert ("the loss of step 6 is not known" in caplog.text) != known
    assert values["knn_top1"] is None, "a score of step 4 is none of step 6"
    assert (values["damaged_examples"], values["skipped_updates"]) == (2, 1)
    assert (values["failed_evaluations"], values["dropped_metrics"]) == (2, 3)


def made(tmp_path, photos, labels: bool):
    """Images in a folder, with and without classes."""
    if labels:
        for i, path in enumerate(sorted(photos.iterdir())):
            (photos / f"class {i % 2}").mkdir(exist_ok=True)
            path.rename(photos / f"class {i % 2}" / path.name)
    return photos


@pytest.mark.parametrize("labels", [True, False])
def test_a_run_says_what_it_has_and_its_next_commands_work(capfd, tmp_path, photos, labels):
    made(tmp_path, photos, labels)
    words = [*own_images(photos), "--config.eval.every=0", "--config.steps=2"]
    code, line, err = jssl(capfd, "train", *words, f"--workdir={tmp_path}/my run")
    assert code == 0, err
    start = err[: err.index("step 1/2")]
    assert f"40 examples, {'2 classes, by' if labels else 'no labels'}" in start
    assert "parameters" in start and "in the encoder" in start and "free" in start
    assert "2 steps of 16 examples, 0.8 passes over them" in start
    end = err[err.index("done: step 2") :]
    assert f"loss {json.loads(line)['loss']:.4f}" in end and "checkpoints: " in end
    commands = [
        line.strip() for line in end.splitlines() if line.startswith(("INFO   jssl", "  jssl"))
    ]
    assert len(commands) == 3, end
    few = {"linear": "eval.linear_epochs=1", "lowshot": "eval.lowshot_epochs=1"}
    few |= {"finetune": "finetune.epochs=1", "knn": "eval.knn_k=5"}
    for command in commands:
        words = shlex.split(command.partition("jssl ")[2].replace("LABELED", str(photos)))
        protocol = words[-1 if labels else -2].partition("=")[2]
        more = [f"--config.{few[protocol]}", "--config.eval.split=train"]
        more += ["--config.eval.lowshot_per_class=2"]
        if labels and protocol == "finetune":  # test_finetune.py runs this one
            assert arguments([*words, *more])[0] == "eval"
            continue
        code, _, err = jssl(capfd, *words, *more)
        if labels:
            assert code == 0, err
        else:
            assert "has no labels" in err.splitlines()[-1], "these photos lie in no classes"


@pytest.mark.parametrize("method", ["gpt", "bert"])
def test_next_commands_of_text_are_commands(method):
    source = types.SimpleNamespace(tokenizer=None, classes=None)
    run = types.SimpleNamespace(
        config=types.SimpleNamespace(method=method),
        method=types.SimpleNamespace(token_nll=None),
        data_info=text_info(),
        data=types.SimpleNamespace(source=source),
    )
    found = [words.split() for words in summary.commands(run, "runs/a")]
    protocols = [words[2].partition("=")[2] for words in found]
    assert protocols == ["perplexity", "generate" if method == "gpt" else "fill-mask", "finetune"]
    for words in found:
        command, args, _ = arguments(words)
        assert (command, args["workdir"]) == ("eval", "runs/a")


def test_an_album_writes_pictures_and_text_through_no_link(tmp_path):
    source = types.SimpleNamespace(tokenizer=tokenizer.load("bytes"))
    album = Album(tmp_path, source)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "pictures" / "views-0000003.png").symlink_to(victim)
    album(Rendered(3, {"views": np.zeros((2, 4, 4, 3), np.float32)}))
    album(Rendered(3, {"text": np.array([source.tokenizer.encode("two words")])}))
    assert victim.read_text() == "precious"
    assert "two words" in (tmp_path / "pictures" / "text-0000003.txt").read_text()
    assert (tmp_path / "pictures" / "views-0000003.png").read_bytes()[:4] == b"\x89PNG"
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    (elsewhere / "pictures").symlink_to(tmp_path)
    with pytest.raises(files.Damaged, match="it is a link"):
        Album(elsewhere, source)


def test_a_profile_is_of_the_steps_that_were_asked_for(tmp_path, caplog):
    caplog.set_level(logging.INFO, "jssl")
    writer = Outbox("the profile", Traces)
    observe = profiler(tmp_path, writer, at=2, last=4, steps=5)
    for step in range(1, 5):
        observe(step, None, {"loss": jnp.float32(step)})
    writer.close(30)
    assert writer.dropped == 0 and "profile of steps 2-4" in caplog.text
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
