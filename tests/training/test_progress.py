"""What a run says of itself: soon, on time, whole on 80 columns, and never at the run's expense."""

import io
import json
import logging
import math
import sys
import time
import types

import numpy as np
import pytest
import rich.console

from jssl.training import observers, progress
from jssl.training.progress import Progress
from jssl.training.summary import as_json

VALUES = {
    "loss": 12.3456, "examples_per_s": 123456.0, "flops_per_s": 1e15, "mfu": 0.31,
    "data_wait_fraction": 0.02,
}  # fmt: skip


class Loss:
    """A loss on a device; `done` says whether it exists."""

    def __init__(self, value, done=True):
        self.value, self.done = value, done

    def is_ready(self):
        return self.done

    def __float__(self):
        assert self.done, "nothing waits for a step"
        return self.value


def until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def shown(monkeypatch):
    """What is printed on stderr; pytest sets sys.stderr itself, after fixtures are made."""
    out = io.StringIO()
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=out))
    return out


def test_the_first_step_is_shown_once_it_is_done_whatever_log_every(shown):
    one = Progress(0, 100, True)
    one.begin()
    loss = Loss(4.5, done=False)
    one.note(1, loss)
    assert shown.getvalue() == ""
    loss.done = True
    until(shown.getvalue)
    one.close()
    assert shown.getvalue().startswith("step 1/100  loss 4.5000  compiled in ")
    assert " s a step, " in shown.getvalue() and "in all" in shown.getvalue()


def test_a_line_comes_by_time_and_of_the_newest_finished_step(shown, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    one = Progress(0, 100, True)
    one.begin()
    for step in range(1, 6):
        one.note(step, Loss(float(step), done=step < 4))
    until(lambda: "step 3/100  loss 3.0000" in shown.getvalue())
    one.close()
    assert "step 4/" not in shown.getvalue() and "ETA" in shown.getvalue()


@pytest.mark.parametrize("begun", [False, True])
def test_silence_is_explained(shown, monkeypatch, begun):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "STILL", 0.0)
    one = Progress(7, 100, True)
    one.begin()
    if begun:
        one.note(8, Loss(1.0, done=False))
    said = "step 8/100 is under way" if begun else "compiling"
    until(lambda: said in shown.getvalue())
    one.close()


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Broken()])
def test_output_that_cannot_be_written_is_given_up(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    one = Progress(0, 10, True)
    one.begin()
    one.note(1, Loss(1.0))
    one(1, VALUES, 1.0)
    one.close()
    one.close()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("steps", [9, 1_000_000])
def test_the_count_is_whole_on_a_bar(width, steps):
    out = io.StringIO()
    console = rich.console.Console(file=out, width=width, force_terminal=True, color_system=None)
    one = Progress(0, steps, True, console)
    one(steps, VALUES, 1.0)
    one.close()
    last = out.getvalue().replace("\r", "\n").splitlines()
    assert any(f"{steps}/{steps}" in line and "loss 12.3456"[: width - 35] in line for line in last)
    if width >= 80:
        assert any("loss 12.3456" in line and "ETA 0:00:00" in line for line in last)


def test_log_lines_stand_above_the_bar_and_the_handler_is_given_back(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    try:
        console = rich.console.Console(file=out, width=80, force_terminal=True)
        one = Progress(0, 10, True, console)
        assert handler.stream is sys.stderr is not out
        logging.getLogger("jssl").warning("a line")
        one.close()
        assert handler.stream is sys.stderr is out and "a line" in out.getvalue()
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_results_are_json_wherever_a_number_is_not_finite(value):
    found = as_json({"loss": value, "deep": {"list": [1, value, (value,)], "x": value}, "ok": True})
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "loss": None, "loss_note": f"not finite ({value})", "ok": True,
        "deep": {"list": [1, None, [None]], "x": None, "x_note": f"not finite ({value})"},
    }  # fmt: skip


class Device:
    """A device that takes a second for each step; `time` stands for the module of that name."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def loss(self, step):
        """The loss of a step, which waits for it if it is read."""
        device = self

        class Value:
            def copy_to_host_async(self):
                pass

            def is_ready(self):
                return device.seconds >= step

            def __array__(self, dtype=None, copy=None):
                device.seconds = max(device.seconds, float(step))
                return np.float32(1.0)

        return Value()


@pytest.mark.parametrize("queued", [0, 3])
def test_the_speed_is_that_of_the_device_however_many_steps_are_queued(monkeypatch, queued):
    """At each visit, at the last one, and after an evaluation of 50 s."""
    device = Device()
    monkeypatch.setattr(observers, "time", device)
    records = []
    recorder = observers.Recorder(
        start=0, steps=40, every=4, examples=8, flops=1.0, peak=None, waited=lambda: 0.0,
        rates={"lr": np.ones(40)}, newest={}, sinks=[],
        alarm=lambda step, values: records.append((step, values["examples_per_s"])),
    )  # fmt: skip
    recorder.begin()
    for step in range(1, 41):
        recorder(step, None, {"loss": device.loss(step)})
        device.seconds = max(device.seconds, step - queued)
        if step == 20:
            with recorder.aside():
                device.seconds = 70.0
            device.loss = lambda step, late=device.loss: late(step + 50)
            queued -= 50
    assert [step for step, _ in records] == list(range(4, 41, 4))
    assert [speed for _, speed in records] == [8.0] * 10
    assert recorder.examples_per_s() == 8.0
