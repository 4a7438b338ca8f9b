"""Damage that is really done: killed workers, files that vanish, slow and read-only storage, names
that steer a terminal, and files of others that hold what they should not."""

import ast
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types

import numpy as np
import pytest
from conftest import FAST, ROOT, in_make_laws
from helpers import image_info, with_content
from helpers.command import TINY, jssl, own_images, refused
from helpers.feeds import BATCH, assert_same, example_source

from jssl.config import UserError, load
from jssl.data import host_batches, loader, sampling
from jssl.data.source import image_fields
from jssl.data.sources.folder import ImageFolder, open_folder
from jssl.training import observers
from jssl.workdir import checksums, claim, lock

# -- data ----------------------------------------------------------------------------------------


def opened(source, workers=2):
    rows = np.arange(BATCH)
    return host_batches.stream(
        source, seed=3, batch_size=BATCH, rows=rows, start=0, workers=workers
    )


def test_batches_go_on_exactly_after_a_worker_was_killed(caplog):
    source, made = example_source(), opened(example_source())
    with caplog.at_level(logging.WARNING, "jssl"):
        for step, batch in zip(range(30), made, strict=False):
            assert_same(batch, source.read(sampling.indices(3, step, 50, BATCH)))
            if step == 4:
                workers = multiprocessing.active_children()
                os.kill(workers[0].pid, signal.SIGKILL)
    made.close()
    assert "a data worker was killed: new ones go on at step" in caplog.text
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive(), "the others of the old ones end as well"


@in_make_laws
def test_workers_that_are_killed_again_and_again_end_the_run():
    made = opened(Deadly())
    with pytest.raises(UserError, match=r"data.workers=2: one was killed 3 times in a row"):
        next(made)


class Deadly:
    """A source that kills the worker that reads it."""

    name, modality, classes = "deadly", "image", None
    fields = image_fields((4, 4, 3), "uint8", labeled=False)

    def __len__(self):
        return 50

    def read(self, indices):
        os.kill(os.getpid(), signal.SIGKILL)


def test_files_removed_while_they_are_read_are_counted_and_named(photos):
    source = open_folder(str(photos), "train", 32, 3)
    before = source.read(np.arange(4))
    assert (before["damaged"] < 0).all()
    for path in sorted(photos.iterdir())[:2]:
        path.unlink()
    after = source.read(np.arange(4))
    assert after["damaged"].tolist() == [0, 1, -1, -1]
    assert after["image"].shape == before["image"].shape


@in_make_laws
def test_slow_storage_shows_as_waiting(capfd, tmp_path, monkeypatch, photos):
    """On a clock that only reading moves: each of five batches takes ten seconds, and is read no
    earlier than it is asked for."""
    read, clock, asked, calls = ImageFolder.read, [0.0], threading.Event(), itertools.count()
    reads = itertools.count()

    def slow(self, indices):
        if len(indices) == 16 and next(reads) < 5:
            assert asked.wait(60)
            asked.clear()
            clock[0] += 10.0
        return read(self, indices)

    def now():  # `Feed.next` looks at the clock before it waits for a batch, and after
        if next(calls) % 2 == 0:
            asked.set()
        return clock[0]

    monkeypatch.setattr(ImageFolder, "read", slow)
    monkeypatch.setattr(loader, "time", types.SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(
        observers,
        "time",
        types.SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic),
    )
    words = [*own_images(photos), "--config.steps=6", "--config.eval.every=0"]
    words += ["--config.data.workers=0", "--config.log.every=1", f"--workdir={tmp_path}/a"]
    code, _, err = jssl(capfd, "train", *words)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    waits = [row["data_wait_fraction"] for row in rows if "data_wait_fraction" in row]
    assert len(waits) == 6 and waits[:4] == [1.0] * 4, waits
    assert "data wait 100%" in err


def test_a_source_that_shrank_is_refused(capfd, tmp_path, photos):
    words = [*own_images(photos), "--config.steps=4", "--config.eval.every=0"]
    words += ["--config.checkpoint.every=2", f"--workdir={tmp_path}/a"]
    assert jssl(capfd, "train", *words)[0] == 0
    (tmp_path / "a" / "result.json").unlink()  # as if the run had not ended
    sorted(photos.iterdir())[0].unlink()
    line = refused(capfd, "train", *words)
    assert "has 39 examples, and the run began with 40" in line


# -- folders -------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path):
    """seal() makes the folder `disk` read-only, as root finds it too; skipped without the right."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        yield disk, lambda: subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_is_one_line_and_can_be_evaluated(capfd, read_only):
    disk, seal = read_only
    words = [TINY, "--config.eval.every=0"]
    assert jssl(capfd, "train", *words, f"--workdir={disk}/a")[0] == 0
    before = jssl(capfd, "eval", f"--workdir={disk}/a")
    (disk / "a" / "result.json").rename(disk / "a" / "elsewhere.json")
    seal()
    assert "read-only" in refused(capfd, "train", *words, f"--workdir={disk}/b").lower()
    assert "read-only" in refused(capfd, "train", *words, f"--workdir={disk}/a").lower()
    after = jssl(capfd, "eval", f"--workdir={disk}/a")
    assert before[0] == after[0] == 0
    assert json.loads(before[1]) == json.loads(after[1])


def test_a_second_run_in_a_workdir_is_refused(capfd, tmp_path, monkeypatch, holder):
    monkeypatch.setattr(lock, "LOCK_TIMEOUT_S", 0.1)
    line = refused(capfd, "train", TINY, f"--workdir={tmp_path}/a")
    assert f"--workdir='{tmp_path}/a': in use by another run (process 7 on host3)" in line
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]


def test_a_run_waits_for_one_that_ends(tmp_path, monkeypatch, holder, caplog):
    def kill(seconds):
        holder.kill()
        holder.wait()

    monkeypatch.setattr(time, "sleep", kill)
    with caplog.at_level(logging.WARNING, "jssl"), lock.exclusive_lock(tmp_path / "a"):
        assert f"process {os.getpid()} on" in (tmp_path / "a" / ".lock").read_text()
    assert "is in use (process 7 on host3): waiting 120 s" in caplog.text


def test_a_run_that_waited_for_another_config_is_refused(capfd, tmp_path, monkeypatch, holder):
    def end(seconds):  # the other run ends, and leaves its folder
        config = load(TINY.partition("=")[2])
        with_content(
            tmp_path / "a", claim.TrainingFolder(tmp_path / "a").compose(config, image_info(), "")
        ).claim()
        (tmp_path / "a" / "checkpoints" / "2").mkdir(parents=True, exist_ok=True)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(time, "sleep", end)
    words = [TINY, "--config.seed=7", f"--workdir={tmp_path}/a"]
    assert "holds a run with config.seed=0, not 7" in refused(capfd, "train", *words)


# -- signals -------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Processes started by that one, or by one of these."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it has ended
            continue
        if int(parent) == pid and state != "Z":
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def test_a_signal_is_heeded_while_a_worker_hangs_and_leaves_none(tmp_path, photos):
    words = [sys.executable, "-m", "jssl", "train", *own_images(photos)]
    words += ["--config.data.workers=2", "--config.steps=100000", "--config.eval.every=0"]
    words += ["--config.checkpoint.every=0", f"--workdir={tmp_path}/a"]
    env = {**os.environ, "XLA_FLAGS": FAST}
    with subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr:
            if line.startswith("step 3/"):
                break
        workers = children(run.pid)
        for worker in workers:  # as one that reads from a file server that is gone
            if b"spawn_main" in pathlib.Path(f"/proc/{worker}/cmdline").read_bytes():
                os.kill(worker, signal.SIGSTOP)
        time.sleep(2)  # until the batches that were read are used up
        run.send_signal(signal.SIGUSR2)
        rest = run.stderr.read()
        assert run.wait(60) == 75, rest
    assert "SIGUSR2: saved after step" in rest
    assert len(workers) >= 2

    def gone():
        return not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers)

    for _ in itertools.takewhile(lambda _: not gone(), range(100)):
        time.sleep(0.1)
    assert gone(), workers


EARLY_AND_LATE = """
import os, pathlib, signal, sys
from jssl import cli
from jssl.training import loop
from jssl.workdir import checksums
prepare, write = loop.setup_run, checksums.write
here = lambda: os.kill(os.getpid(), signal.SIGTERM)
def early(config, **more):
    here()
    return prepare(config, **more)
def late(step):
    here()
    write(step)
command = ["train", *sys.argv[2:], f"--workdir={sys.argv[1]}"]
loop.setup_run = early
try:
    cli.main(command)
except SystemExit as end:
    assert end.code == 75
assert not list(pathlib.Path(sys.argv[1]).glob("checkpoints/*"))
loop.setup_run, checksums.write = prepare, late
sys.exit(cli.main(command))
"""


def test_a_signal_before_the_first_step_and_one_in_the_last_save(tmp_path):
    """Nothing is lost by either: the first is 75, at the second all is done already."""
    words = [TINY, "--config.steps=2", "--config.eval.every=0", "--config.checkpoint.every=0"]
    env = {**os.environ, "XLA_FLAGS": FAST}
    done = subprocess.run(
        [sys.executable, "-c", EARLY_AND_LATE, f"{tmp_path}/a", *words],
        env=env, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SIGTERM: stopped before step 1; start again to go on" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 2
    assert (tmp_path / "a" / "checkpoints" / "2" / checksums.NAME).exists()


def test_a_second_signal_ends_at_once():
    code = """
        import os, signal, time
        from jssl.parallel.preemption import DEBOUNCE_S, stop_on_signal
        with stop_on_signal() as stop:
            print("ready", flush=True)
            while not stop(1):
                time.sleep(0.01)
            print("asked by", stop(1), flush=True)
            os.kill(os.getpid(), signal.SIGINT)  # a terminal's, together with a launcher's
            time.sleep(DEBOUNCE_S)
            print("still here", flush=True)
            time.sleep(600)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.stdout.readline() == "asked by SIGTERM\n"
        assert run.stdout.readline() == "still here\n"
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(20) == -signal.SIGINT
        finally:
            run.kill()


# -- what others wrote ---------------------------------------------------------------------------


def test_names_of_files_do_not_steer_a_terminal(capfd, tmp_path, photos):
    (photos / "a\x1b[2Jb\n\u202ec.png").write_bytes(b"no picture")
    code, _, err = jssl(
        capfd,
        "train",
        *own_images(photos),
        "--config.data.max_corrupt_fraction=0.1",
        f"--workdir={tmp_path}/a",
    )
    assert code == 0, err
    assert r"a\x1b[2Jb\n\u202ec.png" in err
    assert not {"\x1b", "\u202e"} & set(err)
    assert "\\x1b[31m" in refused(capfd, "train", "--config=\x1b[31m", f"--workdir={tmp_path}/b")


DANGEROUS = {"eval", "exec", "compile", "__import__", "system", "popen", "getoutput"}
ALLOWED = {("config.py", "exec_module")}  # the user's own recipe, named on the command line


def test_nothing_that_is_read_can_run():
    """No pickle, eval or shell anywhere in the package (a recipe of the user's is Python)."""
    for path in sorted((ROOT / "jssl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in modules:
                assert name.partition(".")[0] not in ("pickle", "marshal", "shelve", "dill"), path
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                assert name not in DANGEROUS, f"{path}:{node.lineno} calls {name}"
                base = getattr(getattr(node.func, "value", None), "id", "")
                if base == "os":
                    assert node.func.attr not in DANGEROUS, f"{path}:{node.lineno}"
                for word in node.keywords:
                    if word.arg in ("shell", "allow_pickle"):
                        assert getattr(word.value, "value", True) is False, f"{path}:{node.lineno}"
