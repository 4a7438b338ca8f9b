"""A file that grows by whole records."""

import os
import pathlib

from jssl.data import files


class Appender:
    """A regular file that grows by whole records: a partly written record is removed."""

    def __init__(self, path: pathlib.Path) -> None:
        """Opens the file or makes it; raises `files.Damaged` if it is not a regular file."""
        self.file = files.open_regular(path, "ab")

    def write(self, record: bytes) -> None:
        """Appends a record; if that fails, raises `OSError` and leaves the file as it was."""
        number = self.file.fileno()
        size = os.fstat(number).st_size
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[os.write(number, rest) :]
        except OSError:
            os.ftruncate(number, size)
            raise

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
