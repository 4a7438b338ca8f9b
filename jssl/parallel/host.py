"""What a process may lack around it, and how it leaves. Knows no JAX: data workers import it."""

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

SHARED = "/dev/shm"  # where data workers put their batches
RERUN = 76  # exit code of a worker that ran the script of its parent
LEAVE = 5.0  # seconds that the interpreter may take to end when a thread of ours never returns


# -- output --------------------------------------------------------------------------------------


class Output:
    """A text stream that never fails: when who reads it is gone, or the disk that holds it is full,
    the rest goes nowhere. Everything else is the stream's own."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._tolerant():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerant():
            self._stream.flush()

    def isatty(self) -> bool:
        with self._tolerant():
            return self._stream.isatty()
        return False

    @contextlib.contextmanager
    def _tolerant(self):
        try:
            yield
        except (OSError, ValueError):  # gone, full; ValueError: closed
            with contextlib.suppress(OSError, ValueError):
                number = self._stream.fileno()
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)  # for libraries in C, and for what is still buffered
                os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Inside, sys.stdout and sys.stderr exist and can always be written to.

    A descriptor below 3 that is closed is opened on the null device first: otherwise the next file
    that is opened gets its number, and what is printed lands there.
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


def _safe(stream, number: int):
    if isinstance(stream, Output):
        return stream
    if stream is None:
        stream = os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace")
    return Output(stream)


# -- what is missing -----------------------------------------------------------------------------


def cache_folder() -> tuple[pathlib.Path | None, str]:
    """(the folder for compiled programs, ""), or (None, why there is none)."""
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
    """One line about what this machine lacks and the cure, if that is what `error` is about; else
    ""."""
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
    except OSError:  # a system without it
        return False


def shared_memory() -> str:
    """How full `SHARED` is, and the cure."""
    found = shutil.disk_usage(SHARED)
    return (
        f"{SHARED} is full ({found.free / 1e6:,.1f} of {found.total / 1e6:,.1f} MB free), and "
        "data workers need it; enlarge it (docker run --shm-size=8g), or set data.workers=0"
    )


def check_rerun() -> None:
    """Ends this process at once if it is a data worker that runs its parent's script again.

    A worker imports the main module of the process that starts it. If that module trains without
    asking for its name, each worker would train too, and start workers of its own.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # its word for that state
        os._exit(RERUN)


# -- the end -------------------------------------------------------------------------------------


class _Leaving:
    """How this process ends: `code` is what the command is about to return."""

    def __init__(self):
        self.code = 75
        self.began = threading.Event()
        self.watched = False


_leaving = _Leaving()


def leave_with(code: int) -> int:
    """Notes the exit code that the command ends with, and returns it."""
    _leaving.code = code
    return code


def leave_in_time() -> None:
    """Lets the process end although a thread hangs, for example in a read of a lost file server.

    The interpreter joins all threads of its pools before it ends. From now on it has `LEAVE`
    seconds for that, once it has begun to end; then the process ends with the code of `leave_with`.
    """
    if _leaving.watched:
        return
    _leaving.watched = True
    threading.Thread(target=_leave, daemon=True, name="leave").start()
    # The hook of the interpreter that comes before it joins threads has no public name.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_leaving.began.set)
    except RuntimeError:  # it has begun already
        _leaving.began.set()


def _leave() -> None:
    _leaving.began.wait()
    time.sleep(LEAVE)
    os._exit(_leaving.code)
