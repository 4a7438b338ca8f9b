"""The SHA-256 of every file of a checkpoint, written before the checkpoint is final and compared
before it is read.

Orbax checksums only its index, so a flipped bit in an array is loaded silently.
"""

import hashlib
import io
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from jssl.data.files import foreign, open_regular, read_json
from jssl.workdir.identity import NOTE

NAME = "sha256.json"
THREADS = 8  # hashing releases the interpreter's lock


def write(step: pathlib.Path) -> None:
    """Writes the checksums of the files of a step, {"state/d/...": sum}, to <step>/sha256.json."""
    paths = files(step)
    with ThreadPoolExecutor(THREADS) as pool:
        sums = dict(zip(paths, pool.map(sha256_of, paths.values()), strict=True))
    (step / NAME).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def check(step: pathlib.Path, part: int = 0, parts: int = 1) -> None:
    """Compares the files of a step with its list of checksums.

    Args:
      step: the folder of the step.
      part: the number of this process, which reads every `parts`-th file.
      parts: the number of processes.

    Raises:
      ValueError: a file has changed, is missing, or is not in the list.
      FileNotFoundError: there is no list.
      jssl.data.files.Unreachable: the system cannot read.
    """
    listed = read_json(step / NAME)
    if not isinstance(listed, dict):
        raise ValueError(f"{NAME} is not what jssl writes")
    paths = files(step)
    if gone := listed.keys() - paths.keys():  # a list from elsewhere names no other files
        raise ValueError(f"{min(gone)} is gone")
    if extra := paths.keys() - listed.keys():
        raise ValueError(f"{min(extra)} is not in {NAME}")
    mine = sorted(listed)[part::parts]
    with ThreadPoolExecutor(THREADS) as pool:
        for name, digest in zip(
            mine, pool.map(sha256_of, (paths[name] for name in mine)), strict=True
        ):
            if digest != listed[name]:
                raise ValueError(f"{name} is not what was written")


def probe(step: pathlib.Path) -> None:
    """Reads a byte of every file of a step that has no list of checksums.

    Raises:
      jssl.data.files.Damaged: a file is not regular.
      jssl.data.files.Unreachable: the system cannot read.
    """
    for path in files(step).values():
        with foreign(path), open_regular(path) as file:
            file.read(1)


def files(step: pathlib.Path) -> dict[str, pathlib.Path]:
    """Lists the note of a step and the files in its folders, {"state/d/...": path}.

    Hidden files belong to a file server and are left out.

    Raises:
      OSError: a folder cannot be read.
    """
    paths = {}
    for folder, _, names in os.walk(step, onerror=_raise):
        here = pathlib.Path(folder)
        inside = names if here != step else [name for name in names if name == NOTE]
        for name in inside:
            if not name.startswith("."):
                paths[(here / name).relative_to(step).as_posix()] = here / name
    return dict(sorted(paths.items()))


def _raise(error: OSError) -> None:
    raise error


def sha256_of(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a regular file."""
    with foreign(path), open_regular(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
