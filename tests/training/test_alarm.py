"""The collapse alarm: rings once, warns or stops, names the last good checkpoint."""

import json

import pytest

from jssl import cli
from jssl.config import UserError
from jssl.training.alarms import CollapseAlarm

HEALTHY, LOW = {"feature_std": 0.5}, {"feature_std": 0.001}


def alarm(**changes):
    given = dict(collapse="stop", min_feature_std=0.01, patience=2, workdir="runs/a", start=0)
    return CollapseAlarm(**given | {"checkpoints": lambda: [10, 20, 30]} | changes)


def test_it_stops_and_names_the_last_good_checkpoint():
    ring = alarm()
    ring(20, HEALTHY)
    ring(25, LOW)
    with pytest.raises(
        UserError, match=r"since step 21; last good checkpoint: runs/a/checkpoints/20"
    ):
        ring(30, LOW)


def test_patience_starts_anew_after_a_healthy_visit(caplog):
    ring = alarm(collapse="warn")
    for step, values in enumerate([LOW, HEALTHY, LOW, {"loss": 1.0}]):
        ring(step, values)
    assert not caplog.records
    for step in (5, 6, 7):
        ring(step, LOW)
    assert len(caplog.records) == 1, "it rings once, not at every visit"


def test_it_says_if_no_good_checkpoint_is_left():
    ring = alarm(patience=1, checkpoints=lambda: [30])
    ring(20, HEALTHY)
    with pytest.raises(UserError, match="none is left"):
        ring(30, LOW)
    alarm(collapse="off", patience=1)(1, LOW)


@pytest.mark.parametrize(("key", "value"), [("collapse", "shout"), ("patience", 0)])
def test_wrong_settings_are_named(key, value):
    with pytest.raises(UserError, match=f"alarm.{key}="):
        alarm(**{key: value})


def test_a_collapsing_run_ends_with_exit_2(tmp_path, capsys):
    """A threshold that no features reach: the run stops at the second visit, and says so."""
    words = ["--config.alarm.collapse=stop", "--config.alarm.min_feature_std=50"]
    words += ["--config.alarm.patience=2", "--config.eval.every=0"]
    command = ["train", "--config=configs/simsiam_cifar10.py:tiny", f"--workdir={tmp_path}"]
    assert cli.main([*command, *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the features have collapsed" in said and "none is left" in said
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) < 6
