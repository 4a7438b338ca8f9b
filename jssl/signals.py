"""When a run is asked to stop."""

import contextlib
import os
import signal
import time

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

PREEMPTED = 75  # exit code: saved, start me again
TOGETHER = 1.0  # seconds in which two signals are one


@contextlib.contextmanager
def asked_to_stop():
    """stop(step) -> the reason to stop after this step, or "". Asked to by SIGTERM or SIGINT; a
    second one ends at once, unless it comes with the first (a terminal and a launcher may each send
    one). Where there are several processes, a signal to one of them stops all, at a step that they
    agree on (JAX's coordination service, which hears SIGTERM by itself)."""
    names, kinds, first = [], (signal.SIGTERM, signal.SIGINT), []

    def handle(number, frame):
        first.append(time.monotonic())
        if time.monotonic() - first[0] > TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not names:
            names.append(signal.Signals(number).name)
            os.write(2, f"{names[0]}: stopping as soon as all is saved; again: at once\n".encode())

    def pass_on(number, frame):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    many = jax.process_count() > 1
    wanted = {signal.SIGINT: pass_on} if many else dict.fromkeys(kinds, handle)
    before = {kind: signal.signal(kind, handler) for kind, handler in wanted.items()}
    alone = lambda step: names[0] if names else ""
    agreed = lambda step: reached_preemption_sync_point(step) and "a signal to one process"
    try:
        yield agreed if many else alone
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
