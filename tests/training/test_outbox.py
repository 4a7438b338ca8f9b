"""What observes a run can be slow, hang or fail: the loop neither waits nor ends."""

import logging
import threading

import pytest

from jssl.training import outbox
from jssl.training.outbox import Outbox, Soft


class Sink:
    """Notes what it is given; `fail` is raised so many times before that."""

    def __init__(self, fail=None, times=0):
        self.seen, self.fail, self.times, self.closed = [], fail, times, False

    def __call__(self, value):
        if self.times:
            self.times -= 1
            raise self.fail
        self.seen.append(value)

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(outbox, "RETRY", (0.001, 0.001))


def test_order_is_kept_and_all_arrives():
    sink = Sink()
    box = Outbox("a", lambda: sink)
    for i in range(500):
        assert box.post(lambda sink, i=i: sink(i))
    assert box.flush(60) and sink.seen == list(range(500))
    box.close(60)
    assert sink.closed and box.dropped == 0
    assert not box.post(lambda sink: sink(1)), "it is closed"


def test_a_sink_that_hangs_holds_up_nothing(caplog):
    """As a file server that is gone: what does not fit is dropped with one warning, and counted;
    closing gives up."""
    gone, begun = threading.Event(), threading.Event()

    def hang(sink):
        begun.set()
        gone.wait(60)

    box = Outbox("far", Sink, limit=3)
    box.post(hang)
    assert begun.wait(60)
    assert [box.post(lambda sink: sink(1)) for _ in range(6)] == [True] * 3 + [False] * 3
    assert box.dropped == 3 and caplog.text.count("far: 3 records wait") == 1
    assert not box.flush(0.01)
    box.close(0.01)
    assert "far: not done after 0 s" in caplog.text and box.dropped >= 6
    gone.set()


def test_a_disk_that_is_full_for_a_while_loses_nothing(caplog):
    sink = Sink(OSError(28, "No space left on device"), times=20)
    box = Outbox("metrics", lambda: sink)
    with caplog.at_level(logging.INFO, "jssl"):
        for i in range(5):
            box.post(lambda sink, i=i: sink(i))
        box._thread.join(0.5)  # it does not end
        box.close(60)
    assert sink.seen == [0, 1, 2, 3, 4] and box.dropped == 0
    assert caplog.text.count("tried again") == 1 and "it works again" in caplog.text


@pytest.mark.parametrize("where", ["opening", "writing"])
def test_a_disk_that_stays_full_ends_with_a_count(caplog, where):
    sink = Sink(OSError(28, "No space left on device"), times=10**9)

    def opens():
        if where == "opening":
            raise OSError(28, "No space left on device")
        return sink

    box = Outbox("metrics", opens)
    for i in range(3):
        box.post(lambda sink, i=i: sink(i))
    assert not box.flush(0.05), "it does not wait for what fails"
    box.close(60)
    assert box.dropped == 3 and "metrics: 3 records were dropped" in caplog.text
    assert caplog.text.count("tried again") == 1


def test_a_record_that_a_sink_refuses_is_dropped_and_others_go_on(caplog):
    sink = Sink(ValueError("no such thing"), times=1)
    box = Outbox("tracker", lambda: sink)
    for i in range(3):
        box.post(lambda sink, i=i: sink(i))
    box.close(60)
    assert sink.seen == [1, 2] and box.dropped == 1
    assert "a record is dropped (ValueError: no such thing)" in caplog.text


class Panic(BaseException):
    """As of a library in Rust."""


@pytest.mark.parametrize("error", [ValueError("x"), Panic("x"), SystemExit(1)])
def test_a_sink_that_always_fails_is_switched_off(caplog, error):
    box = Outbox("tracker", lambda: Sink(error, times=10**9))
    for _ in range(10):
        box.post(lambda sink: sink(1))
    box.close(60)
    assert box.dropped == 10 and caplog.text.count("switched off") == 1


def test_a_sink_that_cannot_be_opened_is_switched_off_at_once(caplog):
    def opens():
        raise RuntimeError("no key")

    box = Outbox("tracker", opens)
    box.post(lambda sink: None, records=0)
    box.close(60)
    assert box.dropped == 0 and "switched off (RuntimeError: no key)" in caplog.text
    assert not box.post(lambda sink: None) and box.dropped == 1


def test_what_goes_wrong_while_closing_is_a_warning(caplog):
    sink = Sink()
    sink.close = lambda: 1 / 0
    box = Outbox("tracker", lambda: sink)
    box.post(lambda sink: sink(1))
    box.close(60)
    assert "closing it failed (ZeroDivisionError" in caplog.text


def test_an_observer_that_fails_is_a_warning_and_then_off(caplog):
    calls = []

    def observer(step, state, metrics):
        calls.append(step)
        if step != 3:
            raise MemoryError(f"at {step}")

    soft = Soft("a picture", observer)
    for step in range(1, 10):
        soft(step, None, {})
    assert calls == [1, 2, 3, 4, 5, 6], "three in a row, then it is off"
    assert caplog.text.count("training goes on") == 5 and "switched off" in caplog.text


def test_a_stop_passes_through_an_observer():
    def observer(step, state, metrics):
        raise SystemExit(75)

    with pytest.raises(SystemExit):
        Soft("a picture", observer)(1, None, {})
