"""One line for one error: what libraries print of errors that jssl reports itself is held back.

Orbax logs, raises in its own threads, and raises again where the loop waits for it; only the last
is ours to say. Everything else keeps its traceback.
"""

import errno
import logging
import os
import sys
import threading


def disk_full(error) -> bool:
    """Also when it comes through Orbax, which gives a ValueError with the system's text."""
    return getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)


def libraries() -> None:
    """Holds back Orbax's echoes of an error that is raised in the main thread as well."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _in_thread


def way_out() -> None:
    """After a full disk: writers that are closed on the way out fail for the same reason."""
    threading.excepthook = sys.unraisablehook = lambda args: None


def _in_thread(args):
    if not disk_full(args.exc_value):
        threading.__excepthook__(args)
