"""Whether a data set is the one that a run began with, told without reading all of it.

A fingerprint is a SHA-256 in hexadecimal. It depends on what the data set holds and on its split,
and not on the folder in which it lies, so that a copy elsewhere has the same one.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jssl.data import files

SAMPLE = 2**16  # files whose sizes count, and rows of small arrays
CONTENT = 64  # rows of large arrays
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM)


def of_files(names: bytes, ends: np.ndarray, path: Callable[[int], str]) -> str:
    """The fingerprint of many files: all names, and the sizes of some (`SAMPLE`).

    Args:
        names: The relative names, sorted and joined.
        ends: int64 [N], where each of them ends.
        path: path(i) is where file i lies.

    Raises:
        files.Unreachable: The size of a file could not be found out now.
    """
    digest = hashlib.sha256(names + np.ascontiguousarray(ends).tobytes())
    rows = spread(len(ends), SAMPLE).tolist()
    with ThreadPoolExecutor(16) as pool:  # a file server answers many at a time
        sizes = list(pool.map(lambda row: size_of(path(row)), rows))
    digest.update(np.array(sizes, np.int64).tobytes())
    return digest.hexdigest()


def of_arrays(
    large: Sequence[np.ndarray],
    small: Sequence[np.ndarray | None],
    about: Any,
) -> str:
    """The fingerprint of arrays whose first axis is the example.

    Args:
        large: Arrays of which `CONTENT` rows count, evenly spaced: images.
        small: Arrays of which `SAMPLE` rows count: labels, sizes; None is none.
        about: What else decides the content, as JSON: names of classes.
    """
    digest = hashlib.sha256(json.dumps(about).encode())
    for arrays, count in ((large, CONTENT), (small, SAMPLE)):
        for array in arrays:
            if array is None:
                digest.update(b"none")
                continue
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array[spread(len(array), count)]).tobytes())
    return digest.hexdigest()


def of_records(instructions: Sequence[Any], about: Any) -> str:
    """The fingerprint of a split of record files: of each file its name, its size and which of its
    records are read (TFDS's FileInstruction: filename, skip, take, examples_in_shard)."""
    parts = [
        (
            os.path.basename(os.fspath(part.filename)),
            size_of(part.filename),
            part.skip,
            part.take,
            part.examples_in_shard,
        )
        for part in instructions
    ]
    return hashlib.sha256(json.dumps([about, parts]).encode()).hexdigest()


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of `range(count)`, evenly spaced: int64, ascending."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def size_of(path: str | os.PathLike) -> int:
    """The bytes of a file; -1 if it is not there, or not for this user.

    Raises:
        files.Unreachable: Any other error: it says nothing of the data.
    """
    try:
        return os.stat(path).st_size
    except OSError as error:
        if error.errno in _GONE:
            return -1
        raise files.Unreachable(path, files.one_line(error)) from error
