"""`jssl compare`, and what it reads of workdirs."""

import json

import pytest
from helpers.runs import trained

from jssl import cli
from jssl.reports import records


@pytest.fixture
def pair(tmp_path):
    """Two runs, of which the second has another learning rate and no log records yet."""
    return trained(tmp_path / "a"), trained(tmp_path / "b", (), **{"optim.lr": "0.5"})


def test_the_keys_that_differ_and_the_figures(pair, capsys):
    assert cli.main(["compare", *(f"--workdir={folder}" for folder in pair)]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["config"] == {"optim.lr": [0.002, 0.5]}
    assert result["figures"]["loss"] == [3.0, None]
    assert result["figures"]["best_step"] == [2, None]
    assert result["figures"]["best_knn_top1"] == [0.5, None]
    assert result["figures"]["linear_top1"] == [0.5, None]
    assert result["figures"]["eval_seconds"] == [3.0, None]
    assert result["figures"]["train_seconds"] == [16 * 2 / 8 + 16 * 2 / 16, None]
    assert result["figures"]["status"] == ["not done", "not done"]
    assert "skipped_updates" not in result["figures"]
    assert "optim.lr" in shown.err and "0.5" in shown.err and "batch_size" not in shown.err


def test_one_workdir_is_not_enough(pair, capsys):
    assert cli.main(["compare", f"--workdir={pair[0]}"]) == 2
    assert "--workdir is given 1 times" in capsys.readouterr().err


def test_a_folder_without_a_run(pair, tmp_path, capsys):
    assert cli.main(["compare", f"--workdir={pair[0]}", f"--workdir={tmp_path}/none"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_the_later_value_of_a_step_counts():
    rows = [{"step": 3, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 3, "loss": 4.0}]
    assert records.series_of(rows) == {"loss": [(1, 2.0), (3, 4.0)]}
    bad = [{"step": 1, "loss": None, "note": "x", "ok": True, "rate": float("nan")}]
    assert records.series_of(bad) == {}


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    names = ("x/a", "y/a", "b")
    runs = [records.read_record(trained(tmp_path / name)) for name in names]
    labels = records.labels_of(runs)
    assert labels == [str(tmp_path / "x/a"), str(tmp_path / "y/a"), "b"]


def test_no_markup_and_no_control_characters_reach_the_terminal(pair, capsys):
    odd = pair[0].rename(pair[0].parent / "[red]c\x1b[31m")
    assert cli.main(["compare", f"--workdir={odd}", f"--workdir={pair[1]}"]) == 0
    shown = capsys.readouterr().err
    assert "[red]c\\x1b[31m" in shown and "\x1b[31m" not in shown
