"""How often a run traces its step, and how many programs it compiles."""

import chex
import jax
import pytest

from jssl import config
from jssl.training import loop, setup

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def programs():
    """The names of the programs that are compiled, or taken from the cache, in a test."""
    names = []
    listens = [True]

    def listen(event, seconds, fun_name="", **rest):
        if event == COMPILED and listens:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    listens.clear()


def test_a_step_is_traced_once_and_a_run_compiles_few_programs(programs, tmp_path, monkeypatch):
    """With metrics, checkpoints and evaluations: none of them compiles again at its next turn."""
    once = chex.assert_max_traces(setup.train_step, n=1)
    monkeypatch.setattr(setup, "train_step", once)
    every = {"steps": "8", "log.every": "2", "eval.every": "4", "checkpoint.every": "4"}
    loop.train(config.load("configs/simclr_digits.py:tiny", every), str(tmp_path))
    assert programs.count("jit(step)") == programs.count("jit(_init)") == 1
    assert programs.count("jit(call)") == 1  # the encoder, of the evaluations
    assert len(programs) < 20, programs


def test_a_second_trace_would_be_seen():
    step = chex.assert_max_traces(lambda x: x + 1, n=1)
    jax.jit(step)(1.0)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        jax.jit(step)(jax.numpy.ones(3))
