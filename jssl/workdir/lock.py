"""A lock, so that only one run at a time writes to a workdir."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import IO, Any

import jax

from jssl.config import ConfigError, UserError
from jssl.data import files
from jssl.parallel import agreement, mesh, preemption

log = logging.getLogger("jssl")
LOCK_TIMEOUT_S = 120.0  # a file server keeps the locks of a dead host for about 90 s


@contextlib.contextmanager
def exclusive_lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds <folder>/.lock, by the first process of a run.

    It is a POSIX lock: it always ends with its process, and data workers do not inherit it. On file
    systems without locks, or read-only ones, no lock is taken.

    Raises:
      UserError: on all processes, if another run holds it for longer than `LOCK_TIMEOUT_S`.
      jssl.parallel.preemption.Stopped: a stop was requested before.
    """
    path = folder / ".lock"
    file = agreement.run_on_all_processes(lambda: _open(path) if jax.process_index() == 0 else None)
    until = time.monotonic() + LOCK_TIMEOUT_S
    warned = False
    try:
        while mesh.any_across_processes(file is not None and not _taken(file)):
            if mesh.any_across_processes(bool(preemption.requested())):
                raise preemption.Stopped(preemption.requested() or "a signal to one process")
            if mesh.any_across_processes(time.monotonic() > until):
                raise ConfigError(
                    "workdir",
                    folder,
                    f"in use by another run{_owner(path)}",
                    "wait for its end, or use another --workdir",
                )
            if not warned:
                log.warning("%s is in use%s: waiting %.0f s", folder, _owner(path), LOCK_TIMEOUT_S)
            warned = True
            time.sleep(min(preemption.POLL, LOCK_TIMEOUT_S))
        yield
    finally:
        if file is not None:
            file.close()


def _open(path: pathlib.Path) -> IO[Any] | None:
    """Opens the file of a lock; None in a read-only folder, where the first write will fail.

    Raises:
      UserError: the path is a link, whose target may belong to another person.
    """
    try:
        return files.open_regular(path, "a")
    except files.Damaged as error:
        raise UserError(f"{path} is no lock ({error.reason}); delete it") from None
    except OSError:
        return None


def _taken(file: IO[Any]) -> bool:
    """Tries to take the lock; returns whether this process may continue."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        return False
    except OSError as error:
        log.info("%s: there are no locks (%s)", file.name, error.strerror)
        return True
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return True


def _owner(path: pathlib.Path) -> str:
    """Reads the owner of a lock, as in " (process 7 on host3)"; "" if it is unknown."""
    try:
        text = files.read_bytes(path, limit=4096).decode().strip()[:200]
    except (OSError, UnicodeDecodeError, files.Damaged, files.Unreachable):
        return ""
    return f" ({text})" if text.isprintable() and text else ""
