"""The environment of a process: its output, missing resources, and its exit.

Data workers import this module, so it does not import JAX.
"""

import atexit
import contextlib
import errno
import multiprocessing
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SHARED = "/dev/shm"  # where data workers put their batches
RERUN = 76  # exit code of a worker that runs the script of its parent
LEAVE = 5.0  # seconds for the end of the interpreter if a thread of jssl never returns


# -- output --------------------------------------------------------------------------------------


class Output:
    """A text stream that never fails: without a reader, or on a full disk, it drops the text.

    All other attributes are those of the wrapped stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a text stream; never fails."""
        with self._tolerant():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of a text stream; never fails."""
        with self._tolerant():
            self._stream.flush()

    def isatty(self) -> bool:
        """As of a text stream; False if the stream is closed."""
        with self._tolerant():
            return self._stream.isatty()
        return False

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # no reader, full disk; ValueError: closed
            with contextlib.suppress(OSError, ValueError):
                number = self._stream.fileno()
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)  # for libraries in C, and for buffered text
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Replaces sys.stdout and sys.stderr by streams that exist and never fail.

    It first opens closed descriptors below 3 on the null device. Otherwise the next opened file
    would get such a number, and printed text would land in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    before = sys.stdout, sys.stderr
    sys.stdout = _safe(sys.stdout, 1)
    sys.stderr = _safe(sys.stderr, 2)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _safe(stream: Any, number: int) -> Any:
    if isinstance(stream, Output):
        return stream
    if stream is None:
        stream = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace")
    return Output(stream)


# -- missing resources ---------------------------------------------------------------------------


def cache_folder() -> tuple[pathlib.Path | None, str]:
    """Returns (the folder for compiled programs, ""), or (None, the reason why there is none)."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:
        return None, "no home folder is known; set HOME or JAX_COMPILATION_CACHE_DIR"
    folder = pathlib.Path(base) / "jssl" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return None, f"{folder} cannot be made ({error.strerror}); set JAX_COMPILATION_CACHE_DIR"
    if not os.access(folder, os.W_OK | os.X_OK):
        return None, f"{folder} cannot be written to; set JAX_COMPILATION_CACHE_DIR"
    return folder, ""


def missing(error: BaseException) -> str:
    """Describes in one line the resource that this machine lacks, and the cure.

    Returns "" if `error` has another cause.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and shared_memory_is_short():
        return shared_memory()
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "no home folder is known (HOME is not set); set HOME, or write paths without ~"
    if isinstance(error, MemoryError):
        return f"memory is used up ({text or 'MemoryError'}); use a smaller config.batch_size"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error}; allow more open files (ulimit -n) and start again"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "no more threads can be started here; allow more (ulimit -u) and start again"
    return ""


def shared_memory_is_short(needed: int = 2**20) -> bool:
    """Whether `SHARED` has less than `needed` bytes free."""
    try:
        return shutil.disk_usage(SHARED).free < needed
    except OSError:  # the system has no such folder
        return False


def shared_memory() -> str:
    """Describes how full `SHARED` is, and the cure."""
    usage = shutil.disk_usage(SHARED)
    return (
        f"{SHARED} is full ({usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB free), and "
        "data workers need it; enlarge it (docker run --shm-size=8g), or set "
        "--config.data.workers=0"
    )


def check_rerun() -> None:
    """Ends this process at once if it is a data worker that runs the script of its parent again.

    A worker imports the main module of the process that starts it. If that module trains without
    a check of ``__name__``, each worker would train too, and start its own workers.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # set during that import
        os._exit(RERUN)


# -- the end -------------------------------------------------------------------------------------


class _Leaving:
    """How this process ends: `code` is the exit code of the command."""

    def __init__(self) -> None:
        self.code = 75
        self.began = threading.Event()
        self.watched = False


_leaving = _Leaving()


def leave_with(code: int) -> int:
    """Stores the exit code of the command and returns it."""
    _leaving.code = code
    return code


def leave_in_time() -> None:
    """Lets the process end even if a thread hangs, for example in a read from a lost file server.

    The interpreter joins all threads of its pools before it ends. After this call it has `LEAVE`
    seconds for that; then the process ends with the code of `leave_with`.
    """
    if _leaving.watched:
        return
    _leaving.watched = True
    threading.Thread(target=_leave, daemon=True, name="leave").start()
    # The interpreter calls this hook before it joins threads; the hook has no public name.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_leaving.began.set)
    except RuntimeError:  # it has begun already
        _leaving.began.set()


def _leave() -> None:
    _leaving.began.wait()
    time.sleep(LEAVE)
    os._exit(_leaving.code)
