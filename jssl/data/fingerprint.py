"""Fingerprints: detect that a data set changed, without reading all of it.

A fingerprint is a SHA-256 in hexadecimal. It depends on the content of the data set and on its
split, and not on the folder, so that a copy elsewhere has the same fingerprint.
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

SAMPLE = 2**16  # number of files whose sizes are hashed, and of rows of small arrays
_PARTS = 256  # of the sample; a thread reads a part, since a task for each file takes longer
CONTENT = 64  # number of rows of large arrays that are hashed
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM)


def of_files(names: bytes, ends: np.ndarray, path: Callable[[int], str]) -> str:
    """Returns the fingerprint of many files: all names, and the sizes of at most `SAMPLE` files.

    Args:
      names: the relative names, sorted and joined.
      ends: int64 [N], the end of each name in `names`.
      path: path(i) is the path of file i.

    Raises:
      files.Unreachable: the system could not read the size of a file now.
    """
    digest = hashlib.sha256(names + np.ascontiguousarray(ends).tobytes())

    def sizes_of(rows: np.ndarray) -> list[int]:
        return [size_of(path(row)) for row in rows.tolist()]

    parts = np.array_split(spread(len(ends), SAMPLE), _PARTS)
    with ThreadPoolExecutor(16) as pool:  # a file server answers many requests at a time
        sizes = [size for part in pool.map(sizes_of, parts) for size in part]
    digest.update(np.array(sizes, np.int64).tobytes())
    return digest.hexdigest()


def of_arrays(
    large: Sequence[np.ndarray],
    small: Sequence[np.ndarray | None],
    about: Any,
) -> str:
    """Returns the fingerprint of arrays whose first axis is the example.

    Args:
      large: arrays, such as images, of which `CONTENT` rows are hashed, evenly spaced.
      small: arrays, such as labels and sizes, of which `SAMPLE` rows are hashed; None if absent.
      about: a JSON value with all else that decides the content, such as class names.
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
    """Returns the fingerprint of a split of record files.

    Hashes the name and the size of each file, and which of its records are read.

    Args:
      instructions: TFDS's FileInstruction objects, with filename, skip, take and
        examples_in_shard.
      about: a JSON value with all else that decides the content.
    """
    shards = [
        (
            os.path.basename(os.fspath(shard.filename)),
            size_of(shard.filename),
            shard.skip,
            shard.take,
            shard.examples_in_shard,
        )
        for shard in instructions
    ]
    return hashlib.sha256(json.dumps([about, shards]).encode()).hexdigest()


def spread(count: int, most: int) -> np.ndarray:
    """Returns at most `most` elements of `range(count)`, evenly spaced: int64, ascending."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def size_of(path: str | os.PathLike) -> int:
    """Returns the bytes of a file; -1 if it does not exist, or the user may not read it.

    Raises:
      files.Unreachable: any other error, which proves nothing about the data.
    """
    try:
        return os.stat(path).st_size
    except OSError as error:
        if error.errno in _GONE:
            return -1
        raise files.Unreachable(path, files.one_line(error)) from error
