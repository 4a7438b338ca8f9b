"""The command as a user meets it: results on stdout, one line and exit code 2 for wrong input."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import FAST, ROOT
from helpers.command import TINY, jssl, own_images, refused

from jssl import config
from jssl.workdir import run_folder


def test_train_eval_and_train_again(capfd, tmp_path):
    code, line, err = jssl(capfd, "train", TINY, f"--workdir={tmp_path}/a")
    assert code == 0, err
    found = json.loads(line)
    assert found["step"] == 6 and found["loss"] > 0 and len(found["params_sha256"]) == 64
    assert 0 <= found["knn_top1"] <= 1 and found["examples_per_s"] > 0
    rows = [json.loads(row) for row in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == set(range(1, 7))
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    assert "GFLOP/s" in err and "data wait" in err and "ETA" in err
    recipe = json.loads((tmp_path / "a" / "config.json").read_text())["recipe"]
    assert recipe == config.record(TINY.removeprefix("--config="))
    assert "def get_config(variant" in recipe["text"]

    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "a").rglob("*"))
    assert jssl(capfd, "train", TINY, f"--workdir={tmp_path}/a")[:2] == (0, line)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "a").rglob("*"))

    words = ("eval", f"--workdir={tmp_path}/a", "--config.eval.split=test[:10%]")
    code, line, err = jssl(capfd, *words)
    assert code == 0, err
    assert json.loads(line).keys() == {
        "protocol",
        "step",
        "top1",
        "n_train",
        "n_test",
        "unreadable_examples",
    }
    words += ("--protocol=linear", "--config.eval.linear_epochs=2")
    code, line, err = jssl(capfd, *words)
    assert code == 0 and json.loads(line)["protocol"] == "linear", err


def test_own_folder_without_labels(capfd, tmp_path, photos):
    work = f"--workdir={tmp_path}/a"
    code, line, err = jssl(capfd, "train", *own_images(photos), work)
    assert code == 0, err
    assert json.loads(line)["knn_top1"] is None and "no labels" in err
    line = refused(capfd, "eval", work)
    assert "label" in line


def test_unreadable_images_are_skipped_counted_and_named(capfd, tmp_path, photos):
    (photos / "photo 03.png").write_bytes(b"no image")
    words = own_images(photos)
    code, line, err = jssl(capfd, "train", *words, f"--workdir={tmp_path}/a")
    assert code == 0, err
    assert json.loads(line)["damaged_examples"] == 1 and "photo 03.png" in err
    words = (*own_images(photos), "--config.data.max_corrupt_fraction=0.0")
    line = refused(capfd, "train", *words, f"--workdir={tmp_path}/b")
    assert "data.max_corrupt_fraction=0.0" in line and "photo 03.png" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config.optim.lrr=1"], ["config.optim.lrr", "'lr'"]),
        (["--config.steps=abc"], ["config.steps='abc'", "int"]),
        (["--config.steps"], ["--config.steps=VALUE"]),
        (["--config.steps=0"], ["config.steps=0"]),
        (["--config.batch_size=20"], ["config.batch_size=20", "8 devices", "16 or 24"]),
        (["--config.batch_size=16", "--config.accumulate=4"], ["config.batch_size=16", "32"]),
        (["--config.mesh.data=3"], ["mesh.data=3", "8 devices"]),
        (["--config.method=simclrr"], ["config.method='simclrr'", "'simclr'"]),
        (["--config.model.name=resnet19"], ["model.name='resnet19'", "resnet18"]),
        (["--config.optim.name=sdg"], ["optim.name='sdg'", "'sgd'"]),
        (["--config.augment.mode=fast"], ["augment.mode='fast'"]),
        (["--config.data.source=tdfs"], ["data.source='tdfs'", "'tfds'"]),
        (["--config.data.split=tset"], ["data.split"]),
        (["--config.seed=-1"], ["config.seed=-1"]),
        (["--config.seed=9223372036854775808"], ["config.seed=9223372036854775808"]),
        (["--config.eval.batch_size=0"], ["config.eval.batch_size=0"]),
        (["--config.checkpoint.keep_latest=0"], ["config.checkpoint.keep_latest=0", "1"]),
        (
            ["--config.alarm.max_consecutive_nonfinite=-1"],
            ["config.alarm.max_consecutive_nonfinite=-1"],
        ),
    ],
)
def test_wrong_keys_and_values(words, expected, capfd, tmp_path):
    line = refused(capfd, "train", TINY, *words, f"--workdir={tmp_path}/a")
    assert all(word in line for word in expected), line
    assert not (tmp_path / "a" / "config.json").exists(), "the folder is not claimed"


def test_wrong_flags(capfd, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "recipe.md").write_text("# no Python")
    long, text = "n" * 300, "--config=configs/bert_small_books.py:tiny"
    for words, expected in (
        (["bench", TINY, "--steps=abc"], "--steps='abc': must be of type int"),
        (["bench", TINY, "--steps=0"], "--steps=0: must be at least 1"),
        (["plan", TINY, "--devices=x"], "--devices='x': must be of type int"),
        (["data", "pack", TINY, f"--out={tmp_path}/file/x"], "file/x': cannot be made"),
        (["data", "pack", TINY, f"--out={tmp_path}/{long}"], "cannot be made (File name too long)"),
        (["data", "tokenizer", text, f"--out={tmp_path}/file/x/y"], "file/x/y': cannot be made"),
        (["train", f"--config={tmp_path}/recipe.md", f"--workdir={tmp_path}/a"], "not a Python"),
        (["train", TINY, f"--workdir={tmp_path}/runs[1]"], "cannot have a '['"),
        (["eval", f"--workdir={tmp_path}/{long}"], "holds no run"),
    ):
        assert expected in refused(capfd, *words)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    line = refused(capfd, "train", TINY, f"--workdir={tmp_path}/a")
    assert "needs whole numbers in JAX_NUM_PROCESSES and JAX_PROCESS_ID" in line
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/none" in str(run_folder.resolve("~/none"))


def test_a_pack_that_is_ended_leaves_nothing(tmp_path):
    from jssl.data.sources.packed import atomic_directory

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"), atomic_directory(str(tmp_path / "out")):
        assert list(tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) == before


def test_image_size_not_divisible_by_the_patch(capfd, tmp_path):
    words = ("--config=configs/mae_imagenette.py:tiny", "--config.model.patch=7")
    line = refused(capfd, "train", *words, f"--workdir={tmp_path}/a")
    assert "model.patch=7" in line and "28 or 35" in line


def test_missing_and_empty_folder(capfd, tmp_path):
    line = refused(capfd, "train", *own_images(tmp_path / "no"), f"--workdir={tmp_path}/a")
    assert "data.path" in line and str(tmp_path / "no") in line
    (tmp_path / "empty").mkdir()
    line = refused(capfd, "train", *own_images(tmp_path / "empty"), f"--workdir={tmp_path}/a")
    assert "data.path" in line


def test_a_workdir_of_another_run(capfd, tmp_path):
    work = f"--workdir={tmp_path}/a"
    assert jssl(capfd, "train", TINY, work, "--config.eval.every=0")[0] == 0
    line = refused(capfd, "train", TINY, work, "--config.optim.lr=0.5")
    assert "config.optim.lr" in line and "0.5" in line and "--workdir" in line
    assert jssl(capfd, "train", TINY, work, "--config.log.every=3")[0] == 0, "how, not what"


def test_addresses_are_no_folders(capfd, tmp_path):
    line = refused(capfd, "train", TINY, "--workdir=gs://bucket/a")
    assert "--workdir='gs://bucket/a': no folder" in line and "mount" in line
    assert not (ROOT / "gs:").exists()
    words = own_images("s3://bucket/images")
    assert "data.path='s3://" in refused(capfd, "train", *words, f"--workdir={tmp_path}/a")


def test_workdir_missing_or_impossible(capfd, tmp_path):
    assert "--workdir is missing" in refused(capfd, "train", TINY)
    (tmp_path / "file").touch()
    line = refused(capfd, "train", TINY, f"--workdir={tmp_path}/file/a")
    assert "--workdir" in line
    assert "config.json" in refused(capfd, "eval", f"--workdir={tmp_path}/nothing")
    assert "--config is missing" in refused(capfd, "train", f"--workdir={tmp_path}/a")


def test_a_full_disk(capfd, tmp_path, monkeypatch):
    real = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real._replace(free=10_000))
        line = refused(capfd, "train", TINY, f"--workdir={tmp_path}/a")
    assert "free some space" in line

    def full(self, record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jssl.training.loggers.Appender.write", full)
    code, line, err = jssl(capfd, "train", TINY, f"--workdir={tmp_path}/b")
    assert code == 0, "metrics are observed, never needed"
    assert json.loads(line)["dropped_metrics"] > 0 and json.loads(line)["step"] == 6
    assert err.count("No space left on device") == 2, "metrics.jsonl and TensorBoard, once each"


def test_a_disk_that_fills_up_while_training(tmp_path):
    """A real one, of 2 MB: one line, and what was saved before is still there and readable."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    command = [sys.executable, "-m", "jssl", "train", TINY, f"--workdir={disk}/a"]
    command += ["--config.steps=200", "--config.eval.every=0", "--config.checkpoint.every=1"]
    command += ["--config.checkpoint.keep_latest=1000", "--config.model.width=4"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        kept = {path.name for path in (disk / "a" / "checkpoints").iterdir()}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "free some space" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert {"1", "2"} <= kept


def test_wandb_is_an_extra(capfd, tmp_path):
    line = refused(capfd, "train", TINY, "--config.log.wandb=mine", f"--workdir={tmp_path}/a")
    assert "log.wandb='mine'" in line and "pip install" in line


def test_unknown_protocol(capfd, tmp_path):
    assert jssl(capfd, "train", TINY, f"--workdir={tmp_path}/a", "--config.eval.every=0")[0] == 0
    line = refused(capfd, "eval", f"--workdir={tmp_path}/a", "--protocol=liner")
    assert "'linear'" in line
    line = refused(capfd, "eval", f"--workdir={tmp_path}/a", "--config.optim.lr=3")
    assert "config.optim.lr" in line


def test_bench_is_one_json_line(capfd):
    epochs = ["--config.steps=1 epoch", "--config.optim.warmup_steps=50"]  # of ImageNet's size
    code, line, err = jssl(capfd, "bench", TINY, "--steps=2", *epochs)
    assert code == 0, err
    found = json.loads(line)
    assert found["examples_per_s"] > 0 and found["flops_per_step"] > 0 and found["mfu"] is None
    assert found["joules_per_example"] is None


def test_pack_and_train_on_it(capfd, tmp_path, photos):
    packed = tmp_path / "packed"
    code, line, err = jssl(capfd, "data", "pack", *own_images(photos), f"--out={packed}")
    assert code == 0 and json.loads(line)["examples"] == 40, err
    words = [TINY, "--config.data.source=packed", f"--config.data.path={packed}"]
    words += ["--config.data.split=train", f"--workdir={tmp_path}/a"]
    assert jssl(capfd, "train", *words)[0] == 0
    line = refused(capfd, "data", "pack", *own_images(photos), f"--out={packed}")
    assert str(packed) in line


def test_a_signal_saves_and_exits_75(tmp_path):
    command = [sys.executable, "-m", "jssl", "train", TINY, f"--workdir={tmp_path}/a"]
    command += ["--config.steps=100000", "--config.eval.every=0", "--config.checkpoint.every=0"]
    env = {**os.environ, "XLA_FLAGS": FAST}
    with subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            if line.startswith("step 5/"):
                break
        run.send_signal(signal.SIGTERM)
        rest, began = run.stderr.read(), time.monotonic()
        assert run.wait(60) == 75, rest
    assert time.monotonic() - began < 60
    assert "SIGTERM: saved after step" in rest and "Traceback" not in rest
    steps = [int(path.name) for path in (tmp_path / "a" / "checkpoints").iterdir()]
    assert len(steps) == 1 and steps[0] >= 5


def test_tensorflow_is_never_imported():
    modules = "jssl.cli, jssl.training.loop, jssl.commands.bench, jssl.commands.evaluate"
    code = f"import sys, {modules}, jssl.data.sources.tfds_source"
    code += "\nimport tensorflow_datasets\nassert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
