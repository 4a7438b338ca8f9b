"""The feed: the same batches however they are carried."""

import gc
import io
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import pytest
from conftest import ROOT
from helpers.feeds import BATCH, assert_same, example_source
from PIL import Image

from jssl.config import UserError
from jssl.data import DataConfig, host_batches, loader, sampling
from jssl.data.loader import Feed
from jssl.data.source import example_bytes, image_fields
from jssl.data.sources.folder import open_folder
from jssl.parallel import mesh as meshes

REPOSITORY = ROOT


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(data=-1, fsdp=2 if jax.device_count() % 2 == 0 else 1)


def take(data, mesh, start, count, seed=3):
    made = Feed(data, seed, BATCH, mesh, start)
    try:
        batch = jax.jit(made.batch)
        return [batch(made.held, made.next()) for _ in range(count)]
    finally:
        made.close()


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 1), (False, 2)])
def test_every_way_gives_the_order_of_the_law(mesh, resident, workers):
    source = example_source()
    batches = take(DataConfig(source, resident, workers, 0.0), mesh, start=2, count=4)
    for step, batch in enumerate(batches, start=2):
        want = source.read(sampling.indices(3, step, 50, BATCH))
        del want["damaged"]
        assert_same(batch, want)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        assert batch["image"].sharding.is_equivalent_to(meshes.batch_sharding(mesh), 4)
    assert not multiprocessing.active_children()


def test_damaged_examples_are_the_same_resident_and_streamed(mesh, tmp_path, caplog):
    for k in range(20):
        (tmp_path / f"{k:02}.png").write_bytes(b"" if k in (4, 5) else png(k))
    source = open_folder(str(tmp_path), "train", 12, 3)
    resident, streamed = (take(DataConfig(source, r, 0, 0.1), mesh, 0, 3) for r in (True, False))
    for a, b in zip(resident, streamed, strict=True):
        assert_same(a, b)
    warned = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert sorted(warned) == sorted(2 * warned[:2])  # once for each example in each of the feeds
    assert any(str(tmp_path / "04.png") in message for message in warned)

    made = Feed(DataConfig(source, False, 0, 0.1), 3, BATCH, mesh, 0)
    for _ in range(3):
        made.next()
    made.close()
    assert made.damaged == {k: str(tmp_path / f"{k:02}.png") for k in (4, 5)}

    with pytest.raises(
        UserError, match=r"max_corrupt_fraction=0.0: .*2 of 20 .*10.00%.*04.png, .*05.png"
    ):
        Feed(DataConfig(source, True, 0, 0.0), 3, BATCH, mesh, 0)
    with pytest.raises(UserError, match="data.max_corrupt_fraction=0.0: "):
        take(DataConfig(source, False, 0, 0.0), mesh, 0, 3)


@pytest.mark.parametrize(
    ("count", "bad", "max_corrupt_fraction", "stops"),
    [
        (24, 1, 0.01, False),  # one of few says little
        (99, 49, 0.01, False),
        (24, 13, 0.01, True),
        (24, 13, 0.6, False),
        (24, 1, 0.0, True),  # none is none
        (100, 1, 0.01, False),
        (100, 2, 0.01, True),
        (1000, 11, 0.01, True),
    ],
)
def test_how_much_may_be_damaged(mesh, count, bad, max_corrupt_fraction, stops):
    source = example_source(count)
    read = source.read

    def with_damage(indices):
        return read(indices) | {"damaged": np.where(indices < bad, indices, -1).astype(np.int32)}

    source.read = with_damage

    def made():
        return Feed(DataConfig(source, True, 0, max_corrupt_fraction), 3, BATCH, mesh, 0).close()

    if not stops:
        return made()
    with pytest.raises(
        UserError, match=rf"data.max_corrupt_fraction={max_corrupt_fraction}: .* {bad} of {count} "
    ):
        made()


def png(seed):
    out, pixels = io.BytesIO(), np.random.RandomState(seed).randint(0, 256, (9, 12, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_two_processes_read_the_halves_of_one_batch():
    source = example_source()
    halves = [np.arange(8), np.arange(8, 16)]
    for step in (0, 3, 9):
        whole = host_batches.Steps(source, 3, BATCH, np.arange(BATCH))[step]
        parts = [host_batches.Steps(source, 3, BATCH, rows)[step] for rows in halves]
        for key in whole:
            np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), whole[key])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_large_batch_comes_in_parts(monkeypatch, workers):
    source, rows = example_source(), np.arange(3, BATCH)
    monkeypatch.setattr(host_batches, "_PART", 1000)
    steps = host_batches.Steps(source, 3, BATCH, rows)
    assert steps.parts == 4
    made = host_batches.stream(
        source, seed=3, batch_size=BATCH, rows=rows, start=5, workers=workers
    )
    for step, batch in zip((5, 6), made, strict=False):
        assert_same(batch, source.read(sampling.indices(3, step, 50, BATCH)[rows]))
        assert type(batch["image"]) is np.ndarray
    made.close()


class Failing:
    """A source that fails at example 7."""

    name, modality, classes = "failing", "image", None
    fields = image_fields((10, 8, 3), "uint8", labeled=False)

    def __len__(self):
        return 50

    def describe(self, index):
        return str(index)

    def read(self, indices):
        if 7 in indices:
            raise UserError("data.path=x is wrong because of example 7; take it out")
        return {k: v for k, v in example_source().read(indices).items() if k != "label"}


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_errors_keep_their_type_and_message(mesh, resident, workers):
    with pytest.raises(UserError, match="data.path=x is wrong because of example 7"):
        take(DataConfig(Failing(), resident, workers, 0.0), mesh, 0, 5)
    assert not multiprocessing.active_children()


def test_next_raises_the_same_error_again_and_after_close(mesh):
    made = Feed(DataConfig(Failing(), False, 0, 0.0), 3, BATCH, mesh, 0)
    with pytest.raises(UserError):
        for _ in range(5):
            made.next()
    with pytest.raises(UserError):
        made.next()
    made.close()
    made.close()
    made = Feed(DataConfig(example_source(), False, 0, 0.0), 3, BATCH, mesh, 0)
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.next()
    assert not [t for t in threading.enumerate() if t.name == "feed"]


def test_waiting_is_counted_and_reading_runs_ahead(mesh):
    class Slow(Failing):
        def read(self, indices):
            time.sleep(0.1)
            return example_source().read(indices)

    made = Feed(DataConfig(Slow(), False, 0, 0.0), 3, BATCH, mesh, 0)
    made.next()
    assert 0.05 < made.waited < 5
    time.sleep(0.5)  # a step of 0.5 s: the next two batches are there
    before = made.waited
    made.next()
    made.next()
    assert made.waited - before < 0.05
    made.close()


def test_progress_while_a_data_set_is_held(mesh, monkeypatch):
    monkeypatch.setattr(host_batches, "_CHUNK", 20 * example_bytes(example_source()))
    calls = []
    data = DataConfig(example_source(), True, 0, 0.0)
    Feed(data, 3, BATCH, mesh, 0, progress=lambda *call: calls.append(call)).close()
    assert calls == [(20, 50), (40, 50), (50, 50)]


def test_wrong_batch_size(mesh):
    devices = jax.device_count()
    for wrong in {0, devices + 1 if devices > 1 else -1}:
        with pytest.raises(UserError, match=f"batch_size={wrong}: .*{devices}"):
            Feed(DataConfig(example_source(), True, 0, 0.0), 3, wrong, mesh, 0)


def test_a_data_set_that_does_not_fit_is_refused():
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 2**20, "bytes_in_use": 2**20 - 50 * 240}

    class Small:
        local_devices = (Device(),)

    with pytest.raises(UserError, match="data.on_device=True: .*set it to False"):
        loader._check_room(example_source(50), Small())
    loader._check_room(example_source(40), Small())


def test_the_thread_of_a_feed_imports_no_library():
    """Else what JAX imports meanwhile, while it traces in the main thread, may be lazy for ever."""
    code = """
        import sys, threading
        import jax
        import numpy as np
        from jssl.data import DataConfig, loader
        from jssl.data.sources import packed
        from jssl.parallel import mesh
        class Watch:
            def find_spec(self, name, path=None, target=None):
                thread = threading.current_thread()
                if thread is not threading.main_thread():
                    print(thread.name, "imports", name, flush=True)
        jax.device_put(np.zeros(2))
        source = packed.arrays(np.zeros((9, 4, 4, 3), np.uint8), None, "zeros")
        sys.meta_path.insert(0, Watch())
        one = mesh.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
        feed = loader.Feed(DataConfig(source, False, 0, 0.0), 0, 4, one, 0)
        feed.next(), feed.next()
        feed.close()
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    libraries = ("grain", "etils", "tensorflow_datasets")
    assert not [line for line in done.stdout.splitlines() if line.endswith(libraries)]


def test_workers_end_with_a_killed_parent(tmp_path):
    code = """
        import sys, multiprocessing
        import numpy as np
        from jssl.data import host_batches
        from jssl.data.sources import packed
        if __name__ == "__main__":
            source = packed.arrays(np.zeros((9, 4, 4, 3), np.uint8), None, "zeros")
            made = host_batches.stream(
                source, seed=0, batch_size=4, rows=np.arange(4), start=0, workers=2
            )
            next(made), next(made)  # one from each worker: both are up
            print(*[p.pid for p in multiprocessing.active_children()], flush=True)
            sys.stdin.read()
    """
    path = tmp_path / "run.py"  # a file, because spawned workers import the main module
    path.write_text(textwrap.dedent(code))
    parent = subprocess.Popen(
        [sys.executable, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGTERM)  # is the parent's business, which saves first
    time.sleep(0.3)
    assert all(map(alive, workers))
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    for _ in itertools.takewhile(lambda _: any(map(alive, workers)), range(100)):
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    state = pathlib.Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture(autouse=True)
def no_feed_is_left():
    yield
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "feed"]
