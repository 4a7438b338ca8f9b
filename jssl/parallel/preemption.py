"""Requests to stop a run, and the reaction of every wait.

Each signal of `KINDS` requests the same: save the state and exit with 75. Waits (for data, for a
lock, between two batches of an evaluation) raise `Stopped`, and the loop then saves and exits.

A thread reads the signals, from the pipe to which the C handler of the interpreter writes. So a
message is printed, and a second signal ends the process, even while the main thread compiles or
waits for a device.

Data workers import this module, so it imports JAX only where it is used.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from jssl.parallel import host

PREEMPTED = 75  # exit code: saved, start me again
DEBOUNCE_S = 1.0  # seconds in which two signals count as one
AGREEMENT = 4.0  # seconds in which several processes can reach the step they agree on
POLL = 0.2  # seconds between two checks, in every wait
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
KINDS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
ALWAYS = (signal.SIGTERM, signal.SIGINT)  # handled even if they were ignored at the start


class Stopped(BaseException):
    """A run was asked to stop.

    It is no `Exception`, because code that tolerates a failed evaluation must not tolerate it.

    Args:
      reason: the name of the signal, or another cause.
      agreed: whether all processes of the run stop at this step, so that its state can be saved.
    """

    def __init__(self, reason: str, agreed: bool = True) -> None:
        super().__init__(reason)
        self.agreed = agreed


class _Asked:
    """The request to stop this process; there is one per process, as for signals."""

    def __init__(self) -> None:
        self.reason = ""
        self.since = 0.0
        self.runs = 0  # active runs, in any thread


_asked = _Asked()


def requested() -> str:
    """Returns the cause of a request to stop (the name of a signal), or ""."""
    return _asked.reason


def request(reason: str) -> None:
    """Requests a stop of all runs of this process; also for threads that get no signals."""
    if not _asked.reason:
        _asked.since = time.perf_counter()
        _asked.reason = reason


def check() -> None:
    """Raises `Stopped` if a stop was requested and the run has one process.

    For short waits. Several processes have to agree on a step first.
    """
    if _asked.reason and not _many():
        raise Stopped(_asked.reason)


def check_wait(began: float) -> None:
    """Raises `Stopped` if a stop was requested in a wait that began at `began` (perf_counter).

    Several processes get `AGREEMENT` seconds to reach the step that they agree on. A process that
    waits for longer stops alone, and the others end with it (`jssl.parallel.peers`).
    """
    if not _asked.reason:
        return
    alone = not _many()
    if alone or time.perf_counter() - max(began, _asked.since) > AGREEMENT:
        raise Stopped(_asked.reason, agreed=alone)


def result(future: futures.Future[Any]) -> Any:
    """As `future.result()`; raises `Stopped` if a stop is requested before the result is ready."""
    began = time.perf_counter()
    while not futures.wait([future], timeout=POLL).done:
        check_wait(began)
    return future.result()


@contextlib.contextmanager
def pool(threads: int) -> Iterator[futures.ThreadPoolExecutor]:
    """Yields a pool of threads. After `Stopped` it does not wait for them: a read may hang."""
    executor = futures.ThreadPoolExecutor(threads)
    try:
        yield executor
    except Stopped:
        host.leave_in_time()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown(wait=True)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[int], str]]:
    """Yields stop(step), which returns the reason to stop after this step, or "".

    A second signal more than `DEBOUNCE_S` later ends the process at once (a terminal and a launcher
    may each send one at the same time). A signal that was ignored when the process began stays
    ignored (nohup), except `ALWAYS`. Outside the main thread only `request` works.

    With several processes, a signal to one of them stops all, at a step on which they agree. JAX's
    coordination service, which handles SIGTERM, finds that step; other signals are forwarded to it.
    """
    many = _many()
    _asked.runs += 1
    main = threading.current_thread() is threading.main_thread()
    try:
        with _heard(many) if main else contextlib.nullcontext():
            yield _agreed if many else _alone
    finally:
        _asked.runs -= 1
        if _asked.runs == 0:
            _asked.reason = ""


def _many() -> bool:
    """Whether the run has several processes."""
    return "jax" in sys.modules and sys.modules["jax"].process_count() > 1


def _alone(step: int) -> str:
    return _asked.reason


def _agreed(step: int) -> str:
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return "a signal to one process" if reached_preemption_sync_point(step) else ""


@contextlib.contextmanager
def _heard(many: bool) -> Iterator[None]:
    """Sends the signals of `KINDS` to a `_Listener` inside; restores the handlers afterwards."""
    service = _c_handler(signal.SIGTERM, signal.SIG_DFL) if many else None
    kinds = [k for k in KINDS if k in ALWAYS or signal.getsignal(k) != signal.SIG_IGN]
    listener = _Listener(service)
    before = {kind: signal.signal(kind, _by_thread) for kind in kinds}
    pipe = signal.set_wakeup_fd(listener.end, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(pipe)
        for kind, handler in before.items():
            signal.signal(kind, handler if handler is not None else signal.SIG_DFL)
        if listener.service:
            _c_handler(signal.SIGTERM, listener.service)
        listener.close()


def _by_thread(number: int, frame: Any) -> None:
    """Does nothing in the main thread: the thread of `_Listener` handles the signal."""


def _c_handler(number: int, handler: int) -> int:
    """Sets a C handler, by address, and returns the address of the one before.

    JAX's coordination service handles SIGTERM by a C handler, which Python's `signal` does not
    know.
    """
    call = ctypes.CDLL(None).signal
    call.restype = ctypes.c_void_p
    call.argtypes = (ctypes.c_int, ctypes.c_void_p)
    return call(number, int(handler)) or 0


class _Listener:
    """A thread that reads the numbers of received signals from a pipe, whose end is `end`.

    `service`: the address of JAX's handler of SIGTERM, or None.
    """

    def __init__(self, service: int | None) -> None:
        self.service = service if service not in (None, signal.SIG_DFL, signal.SIG_IGN) else None
        self.first = 0.0
        self.begin, self.end = os.pipe()
        os.set_blocking(self.end, False)
        self.thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self.thread.start()

    def close(self) -> None:
        os.write(self.end, b"\0")
        self.thread.join()
        os.close(self.begin)
        os.close(self.end)

    def _listen(self) -> None:
        while True:
            for number in os.read(self.begin, 64):
                if number == 0:
                    return
                if number in KINDS:
                    self._hear(number)

    def _hear(self, number: int) -> None:
        now = time.perf_counter()
        if self.first and now - self.first > DEBOUNCE_S:
            _c_handler(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.first:
            self.first = now
            name = signal.Signals(number).name
            request(name)
            if self.service:
                ctypes.CFUNCTYPE(None, ctypes.c_int)(self.service)(signal.SIGTERM)
            with contextlib.suppress(OSError):  # stderr has no reader
                os.write(2, f"{name}: stopping as soon as all is saved; again: at once\n".encode())
