"""Stops: which signals ask for one, and that every wait hears of it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent import futures

import jax.numpy as jnp
import pytest
from conftest import ROOT, in_make_laws, make_mesh
from helpers.feeds import BATCH, example_source

from jssl.config import UserError
from jssl.data import DataConfig, host_batches, loader
from jssl.data.source import image_fields
from jssl.evals.features import Features
from jssl.parallel import host, preemption
from jssl.training import loop, pace
from jssl.workdir import lock


def eventually(truth):
    """What `truth()` gives once it is true; what it gives at last if that takes over a minute."""
    until = time.monotonic() + 60
    while not (found := truth()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("kind", preemption.KINDS)
def test_every_kind_of_signal_asks_for_a_stop(kind, capfd):
    before = signal.getsignal(kind)
    with preemption.stop_on_signal() as stop:
        assert not stop(1) and not preemption.requested()
        os.kill(os.getpid(), kind)
        assert eventually(preemption.requested) == kind.name == stop(1)
        with pytest.raises(preemption.Stopped, match=kind.name):
            preemption.check()
    assert signal.getsignal(kind) == before and not preemption.requested()
    assert f"{kind.name}: stopping as soon as all is saved" in capfd.readouterr().err


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with preemption.stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert eventually(lambda: stop(1)) == "SIGUSR1"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_a_stop_can_be_asked_for():
    seen = []

    def run():
        with preemption.stop_on_signal() as stop:
            seen.append(eventually(lambda: stop(1)))

    thread = threading.Thread(target=run)
    thread.start()
    assert eventually(lambda: preemption._asked.runs == 1)
    preemption.request("the caller")
    thread.join()
    assert seen == ["the caller"] and not preemption.requested()


def test_a_second_signal_ends_a_process_whose_main_thread_never_returns():
    """The main thread waits in C, as in a compilation; Python's own handlers never run then."""
    code = """
        import ctypes, threading, time
        from jssl.parallel import preemption
        preemption.DEBOUNCE_S = 0.1
        mutex = ctypes.create_string_buffer(128)  # a pthread_mutex_t, locked twice
        with preemption.stop_on_signal():
            print("ready", flush=True)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGUSR1)
        assert "SIGUSR1: stopping" in run.stderr.readline(), "said while the main thread is in C"
        time.sleep(0.2)
        run.send_signal(signal.SIGHUP)
        try:
            assert run.wait(30) == -signal.SIGHUP
        finally:
            run.kill()


# -- waits ---------------------------------------------------------------------------------------


class Hung:
    """A source whose reads never return, like those of a file server that is gone; until freed."""

    name, modality, classes = "hung", "image", None
    fields = image_fields((4, 4, 3), "uint8", labeled=False)

    def __init__(self):
        self.entered = threading.Event()
        self.freed = threading.Event()

    def __len__(self):
        return 50

    def read(self, indices):
        self.entered.set()
        self.freed.wait()
        raise RuntimeError("freed")


@pytest.fixture
def hung(monkeypatch):
    """(source, the list of times that `leave_in_time` was called)."""
    source, left = Hung(), []
    monkeypatch.setattr(host, "leave_in_time", lambda: left.append(1))
    yield source, left
    source.freed.set()


def stop_when_entered(source):
    """Asks for a stop once the wait has begun."""

    def ask():
        source.entered.wait()
        preemption.request("a test")

    threading.Thread(target=ask).start()


def test_a_feed_that_waits_for_data(hung):
    source, left = hung
    with preemption.stop_on_signal():
        made = loader.Feed(DataConfig(source, False, 0, 1.0), 0, BATCH, make_mesh(1), 0)
        stop_when_entered(source)
        with pytest.raises(preemption.Stopped, match="a test"):
            made.next()
        made.close()
    assert left, "the process may end although the thread never does"


def test_a_feed_that_reads_a_resident_set(hung):
    source, left = hung
    with preemption.stop_on_signal():
        stop_when_entered(source)
        with pytest.raises(preemption.Stopped):
            loader.Feed(DataConfig(source, True, 0, 1.0), 0, BATCH, make_mesh(1), 0)
    assert left


def test_an_evaluation_that_waits_for_data_and_one_that_does_not(hung):
    source, left = hung
    embed = Features(lambda state, batch: jnp.zeros((len(batch["image"]), 2)), make_mesh(1), BATCH)
    with preemption.stop_on_signal():
        stop_when_entered(source)
        with pytest.raises(preemption.Stopped):
            embed(None, source)
    assert left
    with preemption.stop_on_signal():

        def ask(done, total):
            return preemption.request("a test")  # after the first of several batches

        with pytest.raises(preemption.Stopped):
            embed(None, example_source(), ask)


def test_a_lock_that_another_run_holds(tmp_path, monkeypatch, holder):  # noqa: F811
    monkeypatch.setattr(time, "sleep", lambda seconds: preemption.request("a test"))
    with preemption.stop_on_signal(), pytest.raises(preemption.Stopped, match="a test"):
        with lock.exclusive_lock(tmp_path / "a"):
            raise AssertionError("it is held")


def test_a_result_that_is_late_and_one_that_failed():
    with preemption.stop_on_signal():
        late = futures.Future()
        preemption.request("a test")
        with pytest.raises(preemption.Stopped):
            preemption.result(late)
    failed = futures.Future()
    failed.set_exception(TimeoutError("the read's own"))
    with pytest.raises(TimeoutError, match="the read's own"):
        preemption.result(failed)


class Saves:
    """Checkpoints that only note what is saved."""

    def __init__(self):
        self.saved = []

    def save(self, step, state, score):
        self.saved.append((step, state))

    def close(self):
        self.saved.append("closed")

    def latest(self):
        return None


class Feed:
    """Batches until step `last`; then a stop is asked for in the wait."""

    held = {}

    def __init__(self, last, agreed=True):
        self.left, self.agreed = last, agreed

    def next(self):
        if not self.left:
            raise preemption.Stopped("a test", self.agreed)
        self.left -= 1


def step(state, held, fed):
    return state + 1, {"loss": jnp.zeros(())}


def looped(given, saves, watchers=(), start=0):
    with pytest.raises(SystemExit, match="75"):
        loop.loop(step, start, given, start, 100, watchers, saves, lambda step: "")


def test_what_is_saved_of_a_run_that_is_stopped_in_a_wait(caplog):
    saves = Saves()
    looped(Feed(5), saves)
    assert saves.saved == [(5, 5), "closed"]
    saves = Saves()
    looped(Feed(0), saves, start=3)
    assert saves.saved == [], "step 3 is saved already"

    def evaluate(step, state, metrics):
        if step == 4:
            raise preemption.Stopped("a test")

    looped(Feed(9), saves, [evaluate])
    assert saves.saved == [(4, 4), "closed"], "the step before the evaluation"
    saves = Saves()
    looped(Feed(5, agreed=False), saves)
    assert saves.saved == [] and "which not all processes can finish" in caplog.text


# -- the queue -----------------------------------------------------------------------------------


def test_slow_steps_are_not_queued_and_fast_ones_are(monkeypatch):
    """On a clock that only waits move: each wait for a step takes as long as the step."""
    clock, done = [1.0], []
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])

    class Step:
        def __init__(self, number, seconds):
            self.number, self.seconds = number, seconds

        def block_until_ready(self):
            clock[0] += self.seconds
            done.append(self.number)

    def behind(seconds, steps=30):
        queue = pace.Pace(8)
        done.clear()
        for number in range(steps):
            queue.add(Step(number, seconds))
        return steps - 1 - done[-1]

    assert behind(3.0) == 0, "a signal in step k is answered after step k"
    assert behind(0.3) == 3
    assert behind(0.001) == 8


# -- called from Python --------------------------------------------------------------------------


@in_make_laws
def test_a_script_that_trains_when_it_is_imported(tmp_path, photos):
    path = tmp_path / "script.py"
    path.write_text(
        "from jssl import cli\n"
        "words = ['--config.data.source=folder', '--config.data.split=train']\n"
        f"words += ['--config.data.path={photos}', '--config.data.on_device=False']\n"
        f"words += ['--config.data.workers=1', '--workdir={tmp_path}/a']\n"
        "cli.main(['train', '--config=configs/simclr_digits.py:tiny', *words])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, path], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("jssl: ")]
    assert "data.workers=1" in line and 'if __name__ == "__main__":' in line
    assert "in use" not in done.stderr and "Traceback" not in done.stderr


def test_a_daemon_may_start_no_workers(monkeypatch):
    host_batches.prepare_start(2)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    host_batches.prepare_start(0)
    with pytest.raises(UserError, match="data.workers=2.*set --config.data.workers=0"):
        loader.Feed(DataConfig(example_source(), False, 2, 1.0), 0, BATCH, make_mesh(1), 0)


def test_a_process_whose_thread_hangs_ends_with_its_code():
    code = """
        import sys, threading, time
        from concurrent.futures import ThreadPoolExecutor
        from jssl.parallel import host as surroundings
        surroundings.LEAVE = 0.2
        ThreadPoolExecutor(1).submit(time.sleep, 600)
        surroundings.leave_in_time()
        sys.exit(surroundings.leave_with(7))
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(words, cwd=ROOT, timeout=60).returncode == 7
