"""The other processes of a run: when one is lost, all end, in a stated time and with one line.

Each process writes a sign of life to JAX's coordination service every `EVERY` seconds. Process 0
looks whether one has given none for `LOST` seconds, and says so; the others read that. If process 0
is lost, the service is lost with it: JAX aborts the process, and `_on_abort` says why.

Nothing can be saved then: the state of the last step that all have finished was given to the steps
that are queued (`donate_argnums`), and parts of it may lie in the lost process. A run goes on from
its last checkpoint.
"""

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

LOST = 30.0  # seconds without a sign of life
EVERY = 1.0  # seconds between two signs
GRACE = 3.0  # seconds that a process has to end by itself after another one has ended
AGAIN = 75  # exit code: start again
FATE = "jssl/end"
# What those say that carry data between processes: Gloo, NCCL, gRPC (its codes), TCP.
TRANSPORT = re.compile(
    r"\bgloo\b|\bnccl|\bby peer\b|connection (closed|reset|refused)|\bUNAVAILABLE\b"
    r"|DEADLINE_EXCEEDED|\bABORTED\b|coordination service", re.IGNORECASE,
)  # fmt: skip
DONE = "done"


class Watch:
    """The signs of life of one process among `count`; `end(code, line)` ends it."""

    def __init__(self, client, index: int, count: int, end: Callable[[int, str], None]):
        self.client, self.index, self.count, self.end = client, index, count, end
        self.beats = 0
        self.leaving = False
        now = time.monotonic()
        self.reached = now
        self.seen = {other: ("", now) for other in range(count) if other != index}

    def run(self) -> None:
        while not self.leaving:
            self.look()
            time.sleep(EVERY)

    def look(self) -> None:
        """One round: gives a sign, looks for those of others, and ends if one is lost."""
        now = time.monotonic()
        self.beats += 1
        try:
            self._write(f"jssl/alive/{self.index}", str(self.beats))
            fate = self._read(FATE)
            if fate is None and self.index == 0:
                fate = self._missing(now)
            self.reached = now
        except Exception as error:  # the service does not answer: it may be busy, or lost
            if now - self.reached > LOST:
                self.end(AGAIN, f"process 0 has not answered for {LOST:.0f} s ({_line(error)})")
            return
        if fate is not None and not self.leaving:
            process, code, line = json.loads(fate)
            if process != self.index:
                time.sleep(GRACE)
                if not self.leaving:
                    self.end(code, line)

    def leave(self) -> None:
        """Says that this process ends well, and gives no more signs."""
        if not self.leaving:
            self.leaving = True
            with contextlib.suppress(Exception):  # nobody may be left to hear it
                self._write(f"jssl/alive/{self.index}", DONE)

    def fail(self, code: int, line: str) -> None:
        """Says that this process ends with `code` and why, so that all end with it."""
        self.leaving = True
        with contextlib.suppress(Exception):  # another one may have failed first
            fate = json.dumps([self.index, code, f"process {self.index} has ended: {line}"])
            self.client.key_value_set(FATE, fate)
        if self.index == 0:
            time.sleep(GRACE + 2 * EVERY)  # the others hear of it through this process

    def _missing(self, now: float) -> str | None:
        """What to say of a process that has given no new sign for `LOST` seconds."""
        found = dict(self.client.key_value_dir_get("jssl/alive/"))
        for other, (sign, since) in self.seen.items():
            new = found.get(f"jssl/alive/{other}", "")
            if new != sign:
                self.seen[other] = (new, now)
            elif sign != DONE and now - since > LOST:
                line = f"process {other} of {self.count} has given no sign of life for {LOST:.0f} s"
                fate = json.dumps([-1, AGAIN, line])
                self._write(FATE, fate)
                return fate
        return None

    def _read(self, key: str) -> str | None:
        found = dict(self.client.key_value_dir_get(key.rpartition("/")[0] + "/"))
        return found.get(key)

    def _write(self, key: str, value: str) -> None:
        self.client.key_value_set(key, value, allow_overwrite=True)


_watches: list[Watch] = []  # that of this process, if its run has several


def watch(address: str) -> None:
    """Begins to look after the other processes; `address` is where process 0 serves."""
    from jax._src import distributed  # the service has no public name

    state = distributed.global_state
    made = Watch(state.client, state.process_id, state.num_processes, _end)
    _watches.append(made)
    threading.Thread(target=made.run, daemon=True, name="peers").start()
    atexit.register(made.leave)
    if state.process_id and address:
        _on_abort(address)


def fail(code: int, line: str) -> None:
    """Ends this process, and the others with it, if the run has several; returns if not."""
    if _watches:
        _watches[0].fail(code, line)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # and not through JAX's barrier, at which nobody else arrives


def broke_off(error: BaseException) -> bool:
    """Whether an error may mean that another process is lost.

    Inside a step, JAX raises its own type. Inside an exchange, the type varies, and the message
    holds words of the transport.
    """
    own = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return own or TRANSPORT.search(str(error)) is not None


def await_verdict() -> None:
    """After a failed exchange between devices: waits until it is known whether a process is lost;
    this process then ends. Returns if all processes live, or there are no others."""
    if _watches:
        time.sleep(LOST + GRACE + 5 * EVERY)


def _end(code: int, line: str) -> None:
    cure = "; start again to go on from the last checkpoint" if code == AGAIN else ""
    with contextlib.suppress(OSError):
        os.write(2, f"jssl: {' '.join(line.split())}{cure}\n".encode(errors="backslashreplace"))
    os._exit(code)


def _on_abort(address: str) -> None:
    """Makes an abort of JAX after the loss of process 0 an end like the others."""
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)

    def aborted(number):
        if not reachable(address, 1.0):
            _end(AGAIN, f"process 0, which served at {address}, is lost")
        libc.signal(number, int(signal.SIG_DFL))  # an abort of another kind goes on

    kept = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _kept.append(kept)  # C holds its address only
    libc.signal(signal.SIGABRT, ctypes.cast(kept, ctypes.c_void_p))


_kept: list = []


def reachable(address: str, seconds: float) -> bool:
    """Whether something answers at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, ValueError):
        return False
    return True


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:150]
