"""What is printed of errors: one line for each, and no control characters.

Orbax logs, raises in its own threads, and raises again where the loop waits for it; only the last
is ours to say. Everything else keeps its traceback.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

STORAGE = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space and start again",
    errno.EROFS: "use another folder",
    errno.EACCES: "use another folder, or change its permissions",
}


def storage(error) -> str:
    """One line of what is wrong with a disk and the cure; "" of any other error. Orbax gives a
    ValueError with the system's text."""
    for number, cure in STORAGE.items():
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return f"{error}; {cure}"
    return ""


def libraries() -> None:
    """Holds back Orbax's echoes of an error that is raised in the main thread as well."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _in_thread


def plain(text: str) -> str:
    """One line without control characters: names of files must not steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Formatter(logging.Formatter):
    """A record a line, whatever its arguments hold; tracebacks stay as they are."""

    def formatMessage(self, record):
        record.message = plain(record.message)
        return super().formatMessage(record)


def way_out() -> None:
    """After a full disk, say: writers that are closed on the way out fail for the same reason."""
    threading.excepthook = sys.unraisablehook = lambda args: None


def _in_thread(args):
    if not storage(args.exc_value):
        threading.__excepthook__(args)


def log_progress(what: str, every: float = 5.0) -> Callable[..., None]:
    """Returns ``progress(done, total, note="")``, which logs a line every few seconds.

    What takes less than `every` seconds logs nothing.
    """
    last = time.monotonic()

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            logging.getLogger("jssl").info("%s: %d of %d%s", what, done, total, note)

    return progress
