"""Runs that end early, the best checkpoint, and losses that disagree with the probe."""

import json

import pytest
from conftest import in_make_laws
from helpers.command import jssl, refused

from jssl import load
from jssl.config import UserError
from jssl.config import load as load_config
from jssl.evals import online
from jssl.interop.run_weights import read_run
from jssl.training import early_stop, loop, trend

QUIET = {"log.tensorboard": "false", "log.render_every": "0", "eval.online_linear_epochs": "0"}


@pytest.mark.parametrize(
    ("scores", "step", "patience", "since", "ends"),
    [
        ({2: 0.5, 4: 0.4, 6: 0.4}, 6, 2, 0, True),
        ({2: 0.5, 4: 0.4, 6: 0.6}, 6, 2, 0, False),
        ({2: 0.5, 4: 0.5, 6: 0.5}, 6, 2, 0, True),  # equal is not better
        ({2: 0.5, 4: 0.4, 6: 0.4}, 4, 2, 0, False),  # later scores do not count
        ({2: 0.5, 4: 0.4, 6: 0.4}, 6, 0, 0, False),  # off
        ({2: 0.5, 4: 0.4, 6: 0.4}, 6, 2, 4, False),  # extended at 4
        ({2: 0.5, 4: 0.4, 6: 0.4, 8: 0.4}, 8, 2, 4, True),
        ({}, 6, 2, 0, False),
    ],
)
def test_when_a_run_ends_early(scores, step, patience, since, ends):
    assert bool(early_stop.why(scores, step, patience, since)) == ends


def worse(monkeypatch, best=4):
    """Evaluations whose accuracy is highest at the step `best`."""

    def probe(run, state, *rest):
        return {"knn_top1": 1 / (2 + abs(int(state.step) - best))}

    monkeypatch.setattr(online, "probe", probe)


def config_of(**changes):
    section = {"eval.every": "2", "eval.patience": "2", "checkpoint.every": "2", "log.every": "3"}
    changed = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return load_config("configs/simclr_digits.py:tiny", QUIET | section | {"steps": "20"} | changed)


@in_make_laws
def test_a_run_ends_early_again_after_a_restart_and_goes_on_when_extended(monkeypatch, tmp_path):
    worse(monkeypatch)
    ended = loop.train(config_of(), tmp_path)
    assert ended["step"] == 8 and "after step 8" in ended["early_stop"]
    assert ended["best"] == {
        "step": 4,
        "probe": "knn_top1",
        "value": 0.5,
        "checkpoint": "checkpoints/4",
    }
    assert (tmp_path / ended["best"]["checkpoint"]).is_dir(), "keep_best keeps it"
    assert ended["loss"] is not None and ended["knn_top1"] == 1 / 6
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(row["step"] == 8 and row.get("loss") == ended["loss"] for row in rows)
    assert loop.train(config_of(), tmp_path)["step"] == 8, "it is finished"
    (tmp_path / "result.json").unlink()  # as if it was killed before it wrote the result
    again = loop.train(config_of(), tmp_path)
    same = ("step", "loss", "params_sha256", "best", "early_stop")
    assert [again[key] for key in same] == [ended[key] for key in same]
    longer = loop.train(config_of(steps=30), tmp_path, extend=True)
    assert longer["step"] == 12, "two more evaluations, none better than that of step 4"
    assert longer["best"]["step"] == 4


def test_the_last_checkpoint_is_that_of_the_step_at_which_the_run_ended(monkeypatch, tmp_path):
    worse(monkeypatch)
    ended = loop.train(config_of(checkpoint__every=0), tmp_path)
    assert ended["step"] == 8 and ended["best"]["checkpoint"] == "checkpoints/8"
    assert [path.name for path in tmp_path.glob("checkpoints/[0-9]*")] == ["8"]


def test_patience_without_evaluations_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^--config.eval.patience=2: .*set --config.eval.every"):
        loop.train(config_of(eval__every=0), tmp_path)


def test_a_checkpoint_is_named_by_best_last_or_its_step(monkeypatch, tmp_path, capfd):
    worse(monkeypatch)
    loop.train(config_of(steps=6, eval__patience=0), tmp_path)
    named = {"best": 4, "last": 6, "6": 6, 4: 4}
    assert {name: load(tmp_path, step=name).step for name in named} == named
    assert {name: read_run(tmp_path, step=str(name)).step for name in named} == named
    words = ("eval", f"--workdir={tmp_path}", "--config.eval.knn_k=5")
    code, line, err = jssl(capfd, *words, "--step=best")
    assert code == 0 and json.loads(line)["step"] == 4, err
    assert "--step=5: there is no such checkpoint (there are: 4, 6)" in refused(
        capfd, *words, "--step=5"
    )
    assert "--step='newest': no step; use best, last" in refused(capfd, *words, "--step=newest")
    (tmp_path / "checkpoints" / "scores.json").unlink()
    assert "no checkpoint has a probe" in refused(capfd, *words, "--step=best")
    (tmp_path / "checkpoints" / "4" / "sha256.json").write_text("{}")
    assert "--step=4: cannot be read" in refused(capfd, *words, "--step=4")


def rows(*evaluations):
    """Two rows of loss and one of the probe for each (loss, probe)."""
    for i, (loss, probe) in enumerate(evaluations):
        yield {"step": 10 * i + 5, "loss": loss}
        yield {"step": 10 * i + 10, "loss": loss}
        yield {"step": 10 * i + 10, "knn_top1": probe}


@pytest.mark.parametrize(
    ("evaluations", "says"),
    [
        ([(1.0, 0.3), (2.0, 0.4), (3.0, 0.5)], "the loss rose from 1 to 3 while knn_top1 improved"),
        ([(3.0, 0.3), (2.0, 0.5), (1.0, 0.4)], "knn_top1 fell from 0.5000 at step 20 to 0.4000"),
        ([(3.0, 0.3), (2.0, 0.4), (1.0, 0.5)], ""),
        ([(1.0, 0.5), (2.0, 0.4), (3.0, 0.3)], ""),
        ([(1.0, 0.3), (1.001, 0.5)], ""),  # the loss hardly changed
        ([(3.0, 0.500), (1.0, 0.495)], ""),  # the probe hardly changed
        ([(-3.0, 0.3), (-2.0, 0.5)], "the loss rose from -3 to -2"),
        ([(1.0, 0.3)], ""),
    ],
)
def test_a_sentence_says_that_loss_and_probe_disagree(evaluations, says):
    found = trend.sentence(trend.evaluations(rows(*evaluations)))
    assert found.startswith(says) and bool(found) == bool(says)


def test_metrics_that_are_lost_or_of_later_steps_give_no_sentence(tmp_path):
    assert trend.of_run(tmp_path, 20) == ""
    lines = [json.dumps(row) for row in rows((1.0, 0.3), (2.0, 0.4))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert trend.of_run(tmp_path, 20) and not trend.of_run(tmp_path, 15)
