"""Files that somebody else may have written: opened without trust, replaced as a whole.

Three rules, for every file of a workdir, a data set or a tokenizer:

- A file is opened only if it is a regular file of a bounded size. In a workdir no link is followed,
  so that a run cannot be made to write to a file outside it.
- A file is replaced atomically, through a temporary file with a unique name.
- What a library raises on foreign bytes becomes `Damaged`; a read error of the system, which may
  pass, becomes `Unreachable`. Only the first of them means that the bytes are wrong.
"""

import contextlib
import errno
import json
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from jssl.config import UserError

JSON_LIMIT = 64 * 2**20  # bytes of a JSON file
# The system could not read, but the bytes may be right: permissions, a mount that hiccups, limits.
PASSING = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOMEM,
)


class Damaged(Exception):
    """The bytes of `name` are not what they should be; `reason` says why in one line."""

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(name)} is damaged: {reason}")
        self.name = os.fspath(name)
        self.reason = reason

    def __reduce__(self):  # a worker process hands it over
        return type(self), (self.name, self.reason)


class Unreachable(UserError):
    """The system could not read `name`. Nothing is known of its bytes, so nothing is changed."""

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(
            f"{os.fspath(name)} cannot be read now ({reason}); nothing was changed; "
            "check the disk and the permissions, and start again"
        )
        self.name = os.fspath(name)
        self.reason = reason

    def __reduce__(self):  # a worker process hands it over
        return type(self), (self.name, self.reason)


@contextlib.contextmanager
def foreign(name: str | os.PathLike) -> Iterator[None]:
    """The border to foreign bytes: whatever is raised inside becomes `Damaged` or `Unreachable`.

    `UserError`, `Damaged`, `FileNotFoundError` and what ends a program pass through. A panic of a
    library written in Rust is a `BaseException` that no `except Exception` meets; here it is
    `Damaged` too.
    """
    try:
        yield
    except (UserError, Damaged, FileNotFoundError):
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OSError as error:
        if error.errno in PASSING:
            raise Unreachable(name, error.strerror or one_line(error)) from error
        raise Damaged(name, one_line(error)) from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Damaged(name, one_line(error)) from error


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of an error in one line, or the name of its type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:limit] or type(error).__name__


def open_regular(
    path: str | os.PathLike, mode: str = "rb", *, follow: bool = False, limit: int | None = None
) -> IO:
    """Opens a regular file; text is UTF-8.

    follow  whether a link is followed; never in a workdir
    limit   bytes that the file may have; None: any

    Modes are those of `open`: "rb" and "r" read, "ab" and "a" append (the file is made if there is
    none). Raises `Damaged` for a link, a folder, a pipe, a device and a larger file. A pipe does
    not block.
    """
    flags = {"r": os.O_RDONLY, "a": os.O_RDWR | os.O_APPEND | os.O_CREAT}[mode[0]]
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged(path, "it is a link") from None
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise Damaged(path, "it is no regular file") from None
        raise
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(path, "it is no regular file")
        if limit is not None and found.st_size > limit:
            raise Damaged(path, f"it has {found.st_size:,} bytes, and {limit:,} are the limit")
        encoding = None if "b" in mode else "utf-8"
        return os.fdopen(number, mode, encoding=encoding)
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: str | os.PathLike, limit: int | None = None, follow: bool = False) -> bytes:
    """The content of a regular file; see `open_regular` and `foreign` for the errors."""
    with foreign(path), open_regular(path, follow=follow, limit=limit) as file:
        return file.read()


def read_json(path: str | os.PathLike, limit: int = JSON_LIMIT, follow: bool = False) -> Any:
    """The value of a JSON file; `Damaged` if it holds no JSON."""
    with foreign(path):
        return json.loads(read_bytes(path, limit, follow))


def replace(path: str | os.PathLike, text: str) -> None:
    """Writes a file as a whole or not at all. A link in its place is replaced, not followed."""
    path = pathlib.Path(path)
    number, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as JSON, as a whole or not at all."""
    replace(path, json.dumps(value, indent=1) + "\n")


def _umask() -> int:
    """The mask of the process; the system has no call that reads it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
