"""Logging: one line per error, without control characters, and lines about progress.

Orbax reports an error three times (log, thread, main thread); jssl prints only the last. All other
errors keep their traceback.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

STORAGE = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space and start again",
    errno.EROFS: "use another folder",
    errno.EACCES: "use another folder, or change its permissions",
}


def storage(error: BaseException | None) -> str:
    """Describes an error of a disk, and the cure, in one line; "" for other errors.

    Orbax raises a ValueError with the text of the system.
    """
    for number, cure in STORAGE.items():
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return f"{error}; {cure}"
    return ""


def libraries() -> None:
    """Hides Orbax's copies of an error that is raised in the main thread as well."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _in_thread


def plain(text: str) -> str:
    """Escapes control characters, because names of files must not control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Formatter(logging.Formatter):
    """Formats each record as one line; tracebacks stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Escapes control characters in the message."""
        record.message = plain(record.message)
        return super().formatMessage(record)


def way_out() -> None:
    """Hides errors during the exit, for example after a full disk, when writers fail again."""
    threading.excepthook = _ignore
    sys.unraisablehook = _ignore


def _ignore(args: Any) -> None:
    """A hook that prints nothing."""


def _in_thread(args: Any) -> None:
    if not storage(args.exc_value):
        threading.__excepthook__(args)


def log_progress(what: str, every: float = 5.0) -> Callable[..., None]:
    """Returns ``progress(done, total, note="")``, which logs a line every few seconds.

    Args:
      what: the name of the work, the start of the line.
      every: seconds between two lines; shorter work logs nothing.
    """
    last = time.monotonic()

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            logging.getLogger("jssl").info("%s: %d of %d%s", what, done, total, note)

    return progress
