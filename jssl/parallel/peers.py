"""The other processes of a run: if one is lost, all end, in a stated time and with one line.

Each process writes a sign of life to JAX's coordination service every `EVERY` seconds. Process 0
checks whether a process has given none for `LOST` seconds, and then writes a message that the
others read. If process 0 is lost, the service is lost with it: JAX aborts the process, and
`_on_abort` prints the reason.

Nothing can be saved then: the state of the last step that all have finished was donated to the
queued steps (`donate_argnums`), and parts of it may be in the lost process. A run continues from
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
from typing import Any

LOST = 30.0  # seconds without a sign of life
EVERY = 1.0  # seconds between two signs
GRACE = 3.0  # seconds in which a process can end by itself after another one has ended
AGAIN = 75  # exit code: start again
FATE = "jssl/end"
# Words in errors of the libraries that carry data between processes: Gloo, NCCL, gRPC, TCP.
TRANSPORT = re.compile(
    r"\bgloo\b|\bnccl|\bby peer\b|connection (closed|reset|refused)|\bUNAVAILABLE\b"
    r"|DEADLINE_EXCEEDED|\bABORTED\b|coordination service",
    re.IGNORECASE,
)
DONE = "done"


class Watch:
    """The signs of life of a process.

    Args:
      client: of JAX's coordination service.
      index: the number of this process.
      count: the number of processes.
      end: end(code, line) ends this process.
    """

    def __init__(
        self, client: Any, index: int, count: int, end: Callable[[int, str], None]
    ) -> None:
        self.client = client
        self.index = index
        self.count = count
        self.end = end
        self.beats = 0
        self.leaving = False
        now = time.monotonic()
        self.reached = now
        self.seen = {other: ("", now) for other in range(count) if other != index}

    def run(self) -> None:
        """Runs rounds until this process leaves."""
        while not self.leaving:
            self.look()
            time.sleep(EVERY)

    def look(self) -> None:
        """Runs one round: gives a sign, checks those of others, and ends if one is lost."""
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
        """Announces that this process ends without an error; it gives no more signs."""
        if not self.leaving:
            self.leaving = True
            with contextlib.suppress(Exception):  # no other process may be left
                self._write(f"jssl/alive/{self.index}", DONE)

    def fail(self, code: int, line: str) -> None:
        """Announces that this process ends with `code` and why, so that all end with it."""
        self.leaving = True
        with contextlib.suppress(Exception):  # another one may have failed first
            fate = json.dumps([self.index, code, f"process {self.index} has ended: {line}"])
            self.client.key_value_set(FATE, fate)
        if self.index == 0:
            time.sleep(GRACE + 2 * EVERY)  # the others read it through this process

    def _missing(self, now: float) -> str | None:
        """Writes and returns the message about a process without a new sign for `LOST` seconds."""
        signs = dict(self.client.key_value_dir_get("jssl/alive/"))
        for other, (sign, since) in self.seen.items():
            newest = signs.get(f"jssl/alive/{other}", "")
            if newest != sign:
                self.seen[other] = (newest, now)
            elif sign != DONE and now - since > LOST:
                line = f"process {other} of {self.count} has given no sign of life for {LOST:.0f} s"
                fate = json.dumps([-1, AGAIN, line])
                self._write(FATE, fate)
                return fate
        return None

    def _read(self, key: str) -> str | None:
        values = dict(self.client.key_value_dir_get(key.rpartition("/")[0] + "/"))
        return values.get(key)

    def _write(self, key: str, value: str) -> None:
        self.client.key_value_set(key, value, allow_overwrite=True)


_watches: list[Watch] = []  # of this process, if its run has several processes


def watch(address: str) -> None:
    """Begins to watch the other processes; `address`: host:port of process 0."""
    from jax._src import distributed  # the service has no public name

    state = distributed.global_state
    own_watch = Watch(state.client, state.process_id, state.num_processes, _end)
    _watches.append(own_watch)
    threading.Thread(target=own_watch.run, daemon=True, name="peers").start()
    atexit.register(own_watch.leave)
    if state.process_id and address:
        _on_abort(address)


def fail(code: int, line: str) -> None:
    """Ends all processes of a run with several; returns if the run has only one."""
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
    """Waits, after a failed exchange between devices, until a lost process would be detected.

    If one is lost, this process ends. It returns if all processes are alive, or there is only one.
    """
    if _watches:
        time.sleep(LOST + GRACE + 5 * EVERY)


def _end(code: int, line: str) -> None:
    cure = "; start again to go on from the last checkpoint" if code == AGAIN else ""
    with contextlib.suppress(OSError):
        os.write(2, f"jssl: {' '.join(line.split())}{cure}\n".encode(errors="backslashreplace"))
    os._exit(code)


def _on_abort(address: str) -> None:
    """Makes an abort by JAX, after the loss of process 0, end with a line and an exit code."""
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)

    def aborted(number: int) -> None:
        if not reachable(address, 1.0):
            _end(AGAIN, f"process 0, which served at {address}, is lost")
        libc.signal(number, int(signal.SIG_DFL))  # an abort with another cause continues

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _kept.append(callback)  # C holds its address only
    libc.signal(signal.SIGABRT, ctypes.cast(callback, ctypes.c_void_p))


_kept: list[Any] = []


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
