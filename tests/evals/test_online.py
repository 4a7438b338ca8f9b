"""Evaluations during training: a step is saved first, and one that fails is a warning."""

import contextlib
import types

import pytest

from jssl.config import UserError
from jssl.evals import online
from jssl.training.rollback import Diverged


def probes(monkeypatch, measured, every=2, aside=contextlib.nullcontext):
    """OnlineProbes without a network: `measured(step)` takes the place of the evaluation."""
    monkeypatch.setattr(online, "labeled", lambda run: ("bank", "queries"))
    monkeypatch.setattr(online, "Features", lambda *given: None)
    monkeypatch.setattr(online, "check", lambda *given: None)
    monkeypatch.setattr(online, "probe", lambda run, state, *rest: measured(state))
    section = types.SimpleNamespace(every=every, batch_size=8)
    config = types.SimpleNamespace(eval=section, steps=5)
    run = types.SimpleNamespace(config=config, method=types.SimpleNamespace(embed=None), mesh=None)
    rows = []
    recorder = types.SimpleNamespace(
        last={"knn_top1": 0.1}, seen={"knn_top1": 2}, aside=aside,
        write=lambda step, values: rows.append(step),
    )  # fmt: skip
    scores = {}
    return online.OnlineProbes(run, recorder, scores.__setitem__), scores, rows


@pytest.mark.parametrize("error", [UserError("bad k"), ValueError("x"), MemoryError("none left")])
def test_an_evaluation_that_fails_is_counted_and_the_next_one_counts(monkeypatch, caplog, error):
    def measured(step):
        if step == 4:
            raise error
        return {"knn_top1": step / 10}

    found, scores, rows = probes(monkeypatch, measured)
    for step in range(1, 6):
        found(step, step, None)
    assert found.failed == 1 and scores == {2: 0.2, 5: 0.5} and rows == [2, 5]
    assert found.at == 5 and "step 4: not evaluated" in caplog.text


def test_an_alarm_that_rings_meanwhile_and_a_stop_are_no_failed_evaluation(monkeypatch):
    @contextlib.contextmanager
    def rings():
        raise Diverged(2, 3)
        yield

    found, _, _ = probes(monkeypatch, lambda step: {"knn_top1": 1.0}, aside=rings)
    with pytest.raises(Diverged):
        found(2, 2, None)

    def stopped(step):
        raise SystemExit(75)

    found, _, _ = probes(monkeypatch, stopped)
    with pytest.raises(SystemExit):
        found(2, 2, None)
    assert found.failed == 0


@pytest.mark.parametrize(("start", "due"), [(0, False), (2, False), (3, False), (4, True)])
def test_a_step_saved_but_not_evaluated_is_evaluated_on_resume(monkeypatch, start, due):
    found, scores, _ = probes(monkeypatch, lambda step: {"knn_top1": 0.5})
    found.resume(start, start)
    assert scores == ({start: 0.5} if due else {})
