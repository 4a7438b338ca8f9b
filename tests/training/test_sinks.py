"""Files and trackers that metrics go to: exact over kills, nothing through links, one id a run."""

import errno
import json
import os
import sys
import types

import pytest

from jssl.config import UserError
from jssl.training import loggers, trackers
from jssl.training.appender import Appender
from jssl.training.outbox import Outbox


def written(path, *steps, start=None):
    sink = loggers.Jsonl(path, start)
    for step in steps:
        sink(step, {"loss": float(step)})
    sink.close()
    return [row and row["step"] for _, row in loggers.lines(path)]


def test_steps_that_are_run_again_are_written_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert written(path, 1, 2, 2, 3, 4) == [1, 2, 2, 3, 4]
    assert written(path, 3, 4, 5, start=2) == [1, 2, 2, 3, 4, 5]
    assert written(path, start=9) == [1, 2, 2, 3, 4, 5]
    assert [one.name for one in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert written(path, start=0) == []


def test_a_rollback_takes_lines_back(tmp_path):
    sink = loggers.Jsonl(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        sink(step, {"loss": float("nan")})
    sink.rewind(1)
    sink(2, {"loss": 0.5})
    sink.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": "nan"}, {"step": 2, "loss": 0.5}]


GARBAGE = (
    b'{"step": 1, "loss": 2.0}\n7\nnull\n[]\n{"step": null}\n{"step": 2, "loss": {}, "lr": 3}\n'
    + b"[" * 100_000 + b"\n\xff\xfe\x00\n" + b'{"step": 9, "loss": 4.0}\n{"st'
)  # fmt: skip


def test_what_others_wrote_is_kept_and_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GARBAGE)
    assert loggers.newest(tmp_path, 5) == {"loss": (1, 2.0), "lr": (2, 3)}
    assert loggers.newest(tmp_path, 9)["loss"] == (9, 4.0)
    written(path, 6, start=5)
    assert path.read_bytes() == GARBAGE.replace(b'{"step": 9, "loss": 4.0}\n', b"") + (
        b'\n{"step": 6, "loss": 6.0}\n'
    )


def test_words_for_numbers_are_numbers_again(tmp_path):
    sink = loggers.Jsonl(tmp_path / "metrics.jsonl")
    sink(3, {"a": float("inf"), "b": float("-inf"), "c": 1.5})
    sink.close()
    assert loggers.newest(tmp_path, 3) == {
        "a": (3, float("inf")), "b": (3, float("-inf")), "c": (3, 1.5),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_metrics_go_through_no_link_and_into_no_pipe(tmp_path, kind, caplog):
    path, victim = tmp_path / "metrics.jsonl", tmp_path / "victim"
    victim.write_text("precious")
    {"link": lambda: path.symlink_to(victim), "folder": path.mkdir,
     "pipe": lambda: os.mkfifo(path)}[kind]()  # fmt: skip
    box = Outbox("metrics.jsonl", lambda: loggers.Jsonl(path, 0))
    box.post(lambda sink: sink(1, {"loss": 1.0}))
    box.close(60)
    assert victim.read_text() == "precious" and box.dropped == 1
    assert "switched off (Damaged" in caplog.text and loggers.newest(tmp_path, 1) == {}


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_record_is_written_whole_or_not_at_all(tmp_path, monkeypatch, taken):
    out, write, calls = Appender(tmp_path / "a"), os.write, []
    out.write(b"first\n")

    def full(number, data):
        calls.append(len(data))
        if len(calls) == 1 and taken:
            return write(number, data[:taken])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "write", full)
        out.write(b"second record\n")
    out.write(b"third\n")
    out.close()
    assert (tmp_path / "a").read_bytes() == b"first\nthird\n"


class FakeRun:
    """What W&B's `init` gives."""

    def __init__(self):
        self.logged, self.ended = [], []

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    calls, run = [], FakeRun()

    def init(**given):
        calls.append(given)
        return run

    module = types.SimpleNamespace(init=init, calls=calls, run=run, Image=lambda picture: picture)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    calls = []

    def start_run(**given):
        calls.append(("start_run", given))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc123"))

    def noted(name):
        return lambda *given, **named: calls.append((name, *given, named))

    names = ("set_experiment", "log_params", "log_metrics", "end_run")
    module = types.SimpleNamespace(
        start_run=start_run,
        calls=calls,
        MlflowException=KeyError,
        **{name: noted(name) for name in names},
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def opened(folder, **named):
    given = dict(start=0, config={"optim": {"lr": 0.1}}, tensorboard=False, wandb="", mlflow="")
    boxes = loggers.open_all(folder, **given | named)
    for box in boxes:
        box.post(lambda sink: sink(1, {"loss": 2.0}))
        box.close(60)
    return boxes


def test_wandb_goes_on_in_the_same_run_and_hears_the_config(tmp_path, wandb):
    for _ in range(2):
        opened(tmp_path, wandb="project")
    first, second = wandb.calls
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert first["resume"] == "allow" and first["config"] == {"optim": {"lr": 0.1}}
    assert wandb.run.logged == [(1, {"train/loss": 2.0})] * 2
    assert wandb.run.ended == [1, 1], "the run itself has not ended"


def test_wandb_gets_steps_in_ascending_order(tmp_path, wandb):
    """The recorder writes the metrics of a step later than its pictures."""
    sink = trackers.Wandb("project", tmp_path, {})
    sink.show(3, {"views": 7})
    sink(2, {"loss": 2.0})
    sink.show(4, {"views": 8})
    sink(4, {"loss": 1.0})
    sink.show(5, {"views": 9})
    sink.end()
    sink.close()
    assert wandb.run.logged == [
        (2, {"train/loss": 2.0}), (3, {"pictures/views": 7}),
        (4, {"train/loss": 1.0, "pictures/views": 8}), (5, {"pictures/views": 9}),
    ]  # fmt: skip
    assert wandb.run.ended == [0]


def test_mlflow_goes_on_in_the_same_run_and_hears_the_config(tmp_path, mlflow):
    for _ in range(2):
        opened(tmp_path, mlflow="experiment")
    starts = [call[1] for call in mlflow.calls if call[0] == "start_run"]
    assert starts == [{"run_name": tmp_path.name}, {"run_id": "abc123"}]
    assert ("log_params", {"optim.lr": "0.1"}, {}) in mlflow.calls
    assert mlflow.calls.count(("log_metrics", {"train/loss": 2.0}, {"step": 1})) == 2
    assert mlflow.calls[-1] == ("end_run", "KILLED", {}), "the run itself has not ended"


def test_mlflow_learns_that_the_run_is_done(tmp_path, mlflow):
    sink = trackers.Mlflow("experiment", tmp_path, {})
    sink.end()
    sink.close()
    assert mlflow.calls[-1] == ("end_run", "FINISHED", {})


@pytest.mark.parametrize("text", ["", "../../x", "a b", "x" * 65, "\udcff", "a" * 2000])
def test_an_id_that_is_none_is_replaced(tmp_path, wandb, text):
    (tmp_path / "wandb_id").write_text(text, errors="surrogateescape")
    opened(tmp_path, wandb="project")
    assert len(wandb.calls[0]["id"]) == 12
    assert (tmp_path / "wandb_id").read_text().strip() == wandb.calls[0]["id"]


def test_an_id_is_not_written_through_a_link(tmp_path, wandb):
    victim = tmp_path / "victim"
    victim.write_text("stolen-id")
    (tmp_path / "wandb_id").symlink_to(victim)
    opened(tmp_path, wandb="project")
    assert wandb.calls[0]["id"] != "stolen-id" and victim.read_text() == "stolen-id"


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_tracker_without_a_key_or_a_server_is_a_warning(tmp_path, package, request, caplog):
    module = request.getfixturevalue(package)

    def refuse(**given):
        raise RuntimeError("No API key configured")

    setattr(module, {"wandb": "init", "mlflow": "start_run"}[package], refuse)
    boxes = opened(tmp_path, **{package: "name"})
    assert f"log.{package}: it is switched off (RuntimeError: No API key" in caplog.text
    assert loggers.newest(tmp_path, 1)["loss"] == (1, 2.0), "the others go on"
    assert sum(box.dropped for box in boxes) == 1


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_at_once(package):
    if package in sys.modules:
        pytest.skip("it is there")
    with pytest.raises(UserError, match=f"config.log.{package}='p': needs the {package} package"):
        trackers.need(package, "p")
