"""W&B, MLflow and TensorBoard themselves, without a network: `make trackers` installs them.

Where a package is missing, its tests are skipped. `test_sinks.py` has the tests with fakes.
"""

import numpy as np
import pytest
from conftest import ROOT
from helpers.shades import Shades
from helpers.wandb_file import read_run

from jssl import config
from jssl.reports import projector
from jssl.reports.examples import EmbeddedRows
from jssl.training import loop, trackers
from jssl.training.tensorboard import TensorBoard

CONFIG = {"steps": 6, "optim": {"lr": 0.5, "no_decay": ("bias$",)}}
PICTURE = np.zeros((4, 6, 3), np.uint8)
REASON = "{} is not installed; `make trackers` runs this test"


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The package, in its offline mode."""
    module = pytest.importorskip("wandb", reason=REASON.format("wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return module


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """The package, with its data in tmp_path."""
    module = pytest.importorskip("mlflow", reason=REASON.format("mlflow"))
    monkeypatch.chdir(tmp_path)  # where it puts pictures
    module.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield module
    module.set_tracking_uri(None)


def start(sink, first, done):
    """A start of a run that logs three visits, of which the second comes late."""
    sink(first, {"loss": 1.0, "knn_top1": 0.5})
    sink.show(first + 3, {"views": PICTURE})
    sink(first + 2, {"loss": 2.0})
    sink(first + 4, {"loss": 3.0})
    if done:
        sink.end()
    sink.close()


def offline(workdir):
    """What all starts of a run have written, in the order of the starts."""
    paths = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_mtime)
    return [read_run(path) for path in paths]


def stored(mlflow):
    """The runs of the experiment "digits"."""
    client = mlflow.MlflowClient()
    return client, client.search_runs([client.get_experiment_by_name("digits").experiment_id])


def test_wandb_has_one_run_of_two_starts(tmp_path, wandb):
    start(trackers.Wandb("digits", tmp_path, CONFIG), 2, done=False)
    start(trackers.Wandb("digits", tmp_path, CONFIG | {"steps": 9}), 4, done=True)
    first, second = offline(tmp_path)
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert (first["exit"], second["exit"]) == (1, 0)
    assert (first["config"]["steps"], second["config"]["steps"]) == (6, 9)
    assert first["config"]["optim"]["lr"] == 0.5
    assert [step for step, _ in first["history"]] == [2, 4, 5, 6], "no step is refused"
    assert [step for step, _ in second["history"]] == [4, 6, 7, 8]
    (_, values), (_, late), (_, picture), _ = first["history"]
    assert (values["train/loss"], values["eval/knn_top1"], late["train/loss"]) == (1.0, 0.5, 2.0)
    assert (picture["pictures/views/height"], picture["pictures/views/width"]) == (4, 6)
    (folder, _) = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert (folder / "files" / picture["pictures/views/path"]).is_file()


def test_mlflow_has_one_run_of_two_starts(tmp_path, mlflow):
    start(trackers.Mlflow("digits", tmp_path, CONFIG), 2, done=False)
    _, (run,) = stored(mlflow)
    assert run.info.status == "KILLED"
    start(trackers.Mlflow("another experiment", tmp_path, CONFIG | {"steps": 9}), 4, done=True)
    client, (run,) = stored(mlflow)
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.info.run_id == (tmp_path / "mlflow_id").read_text().strip()
    assert run.data.params == {"steps": "6", "optim.lr": "0.5", "optim.no_decay": "('bias$',)"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(x.step for x in history) == [2, 4, 4, 6, 6, 8]
    assert run.data.metrics["eval/knn_top1"] == 0.5
    pictures = [x.path for x in client.list_artifacts(run.info.run_id, "images")]
    assert len([path for path in pictures if path.endswith(".png")]) == 2


def test_mlflow_begins_anew_where_it_does_not_know_the_run(tmp_path, mlflow, caplog):
    (tmp_path / "mlflow_id").write_text("0123456789abcdef0123456789abcdef\n")
    start(trackers.Mlflow("digits", tmp_path, CONFIG), 2, done=True)
    _, (run,) = stored(mlflow)
    assert run.info.run_id == (tmp_path / "mlflow_id").read_text().strip()
    assert "MLflow has no run 0123456789abcdef" in caplog.text


def test_a_run_that_is_extended_is_one_run_of_both(tmp_path, wandb, mlflow):
    keys = {
        "log.wandb": "digits", "log.mlflow": "digits", "log.every": "2", "log.render_every": "3",
        "eval.every": "0", "checkpoint.every": "0",
    }  # fmt: skip
    recipe = f"{ROOT}/configs/simclr_digits.py:tiny"
    loop.train(config.load(recipe, keys | {"steps": "4"}), tmp_path / "a")
    loop.train(config.load(recipe, keys | {"steps": "8"}), tmp_path / "a", extend=True)
    first, second = offline(tmp_path / "a")
    assert first["id"] == second["id"] and (first["exit"], second["exit"]) == (0, 0)
    runs = [[(step, "train/loss" in x) for step, x in run["history"]] for run in (first, second)]
    assert runs[0] == [(2, True), (3, False), (4, True)]
    assert runs[1] == [(6, True), (8, True)]
    assert "pictures/views/path" in second["history"][0][1], "of step 6"
    client, (run,) = stored(mlflow)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [x.step for x in history] == [2, 4, 6, 8] and run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.002"


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboard", reason=REASON.format("tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    start(TensorBoard(tmp_path, {"steps": 6}), 2, done=False)
    start(TensorBoard(tmp_path, {"steps": 9, "optim.lr": 0.5}, start=4), 6, done=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/knn_top1"}
    assert [x.step for x in events.Scalars("train/loss")] == [2, 4, 6, 8, 10]
    assert [(x.step, x.height, x.width) for x in events.Images("pictures/views")] == [(9, 4, 6)]
    content = {
        tag: events.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    }
    begun = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert (
        begun.hparams["steps"].number_value == 9 and begun.hparams["optim.lr"].number_value == 0.5
    )
    ended = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert ended.status == 1, "success"


def test_the_projector_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboard", reason=REASON.format("tensorboard"))
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    rows = EmbeddedRows(Shades(), "train", np.arange(3), np.ones((3, 2), np.float32), None)
    projector.write(tmp_path, rows, (), step=4)
    text = (tmp_path / "projector_config.pbtxt").read_text()
    (embedding,) = text_format.Parse(text, ProjectorConfig()).embeddings
    assert list(embedding.tensor_shape) == [3, 2]
    assert list(embedding.sprite.single_image_dim) == [64, 64]
    for path in (embedding.tensor_path, embedding.metadata_path, embedding.sprite.image_path):
        assert (tmp_path / path).is_file()
