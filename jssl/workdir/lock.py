"""One run at a time writes to a workdir."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
import time
from typing import IO

import jax

from jssl.config import UserError
from jssl.data import files
from jssl.parallel import agreement, mesh, preemption

log = logging.getLogger("jssl")
LOCK_TIMEOUT_S = 120.0  # seconds; of a host that died, a file server keeps the locks for some 90


@contextlib.contextmanager
def exclusive_lock(folder: pathlib.Path):
    """Holds <folder>/.lock, by the first process of a run. `UserError` on all of them if another
    run holds it for longer than `LOCK_TIMEOUT_S`, and `signals.Stopped` if a stop is asked for
    first.

    A POSIX lock: it ends with its process, however that ends, and data workers do not inherit it.
    Where a file system knows no locks, or may not be written to, there is none.
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
                raise UserError(
                    f"--workdir={folder} is in use by another run{_owner(path)}; wait for its end, "
                    "or use another --workdir"
                )
            if not warned:
                log.warning("%s is in use%s: waiting %.0f s", folder, _owner(path), LOCK_TIMEOUT_S)
            warned = True
            time.sleep(min(preemption.POLL, LOCK_TIMEOUT_S))
        yield
    finally:
        if file is not None:
            file.close()


def _open(path: pathlib.Path) -> IO | None:
    """The open file of a lock; None in a folder that cannot be written to, which is refused by who
    writes first. `UserError` for a link: what it names is somebody else's."""
    try:
        return files.open_regular(path, "a")
    except files.Damaged as error:
        raise UserError(f"{path} is no lock ({error.reason}); delete it") from None
    except OSError:
        return None


def _taken(file) -> bool:
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


def _owner(path) -> str:
    """ " (process 7 on host3)", as its lock says."""
    try:
        text = files.read_bytes(path, limit=4096).decode().strip()[:200]
    except (OSError, UnicodeDecodeError, files.Damaged, files.Unreachable):
        return ""
    return f" ({text})" if text.isprintable() and text else ""
