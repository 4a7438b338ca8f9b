"""Files that somebody else may have written: opened without trust, replaced as a whole.

Three rules hold for every file of a workdir, a data set or a tokenizer:

- A file is opened only if it is a regular file of a bounded size. In a workdir no link is followed,
  so that a run cannot be made to write to a file outside it.
- A file is replaced atomically, through a temporary file with a unique name.
- If a library raises an error on foreign bytes, the error becomes `Damaged`. A read error of the
  system, which may be temporary, becomes `Unreachable`. Only `Damaged` means that the bytes are
  wrong.
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
# The system could not read, but the bytes may be right: permissions, an unstable mount, limits.
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
    """The bytes of the file `name` are wrong. `reason` is the cause, in one line."""

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(f"{os.fspath(name)} is damaged: {reason}")
        self.name = os.fspath(name)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # a worker process sends it
        return type(self), (self.name, self.reason)


class Unreachable(UserError):
    """The system could not read the file `name`. Its bytes may be right, so nothing is changed."""

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(
            f"{os.fspath(name)} cannot be read now ({reason}); nothing was changed; "
            "check the disk and the permissions, and start again"
        )
        self.name = os.fspath(name)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # a worker process sends it
        return type(self), (self.name, self.reason)


@contextlib.contextmanager
def foreign(name: str | os.PathLike) -> Iterator[None]:
    """Converts any error inside the block to `Damaged` or `Unreachable`, for foreign bytes.

    `UserError`, `Damaged`, `FileNotFoundError` and the exceptions that end a program pass through.
    A panic of a library in Rust is a `BaseException`, which ``except Exception`` does not catch;
    here it becomes `Damaged` too.

    Args:
      name: the file, for the message.
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
    """Returns the message of an error in one line, or the name of its type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:limit] or type(error).__name__


def open_regular(
    path: str | os.PathLike, mode: str = "rb", *, follow: bool = False, limit: int | None = None
) -> IO[Any]:
    """Opens a regular file; text is UTF-8. Opening a pipe does not block.

    Args:
      path: the file.
      mode: as for `open`: "rb" and "r" read, "ab" and "a" append (and create the file if needed).
      follow: whether a link is followed; never in a workdir.
      limit: the largest size in bytes; None: any.

    Raises:
      Damaged: `path` is a link, a folder, a pipe, a device or too large.
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
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(path, "it is no regular file")
        if limit is not None and status.st_size > limit:
            raise Damaged(path, f"it has {status.st_size:,} bytes, and {limit:,} are the limit")
        encoding = None if "b" in mode else "utf-8"
        return os.fdopen(number, mode, encoding=encoding)
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: str | os.PathLike, limit: int | None = None, follow: bool = False) -> bytes:
    """Returns the content of a regular file; see `open_regular` and `foreign` for the errors."""
    with foreign(path), open_regular(path, follow=follow, limit=limit) as file:
        return file.read()


def read_json(path: str | os.PathLike, limit: int = JSON_LIMIT, follow: bool = False) -> Any:
    """Returns the value of a JSON file; raises `Damaged` if it is not JSON."""
    with foreign(path):
        return json.loads(read_bytes(path, limit, follow))


def replace(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file atomically, text as UTF-8. A link at `path` is replaced, not followed."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Yields a new binary file, which replaces `path` at the end of the block, atomically.

    After an error in the block `path` is as it was. A link at `path` is replaced, not followed.
    """
    path = pathlib.Path(path)
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(number, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as JSON, atomically."""
    replace(path, json.dumps(value, indent=1) + "\n")


def _umask() -> int:
    """Returns the umask of the process. The system cannot read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
