"""The SHA-256 of every file of a checkpoint: taken before it is made final, compared before it is
read.

Orbax's format has checksums of its index only: an array of which a bit has flipped on the disk is
read as it is, without a word.
"""

import hashlib
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

from jssl.data.files import foreign, open_regular, read_json
from jssl.workdir.identity import NOTE

NAME = "sha256.json"
THREADS = 8  # hashing leaves the interpreter's lock to the others


def write(step: pathlib.Path) -> None:
    """Lists the files of a step, {"state/d/...": sum}, as <step>/sha256.json."""
    paths = files(step)
    with ThreadPoolExecutor(THREADS) as pool:
        sums = dict(zip(paths, pool.map(sha256_of, paths.values()), strict=True))
    (step / NAME).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def check(step: pathlib.Path, part: int = 0, parts: int = 1) -> None:
    """`ValueError` that names a file of the step which is not what was written, or which the list
    lacks; every one of `parts` processes reads its `part` of them.

    `FileNotFoundError` where there is no list. `jssl.data.files.Unreachable` where the system could
    not read.
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
    """Reads a byte of every file of a step that has no list: `jssl.data.files.Damaged` for what is
    no regular file, `jssl.data.files.Unreachable` where the system cannot read."""
    for path in files(step).values():
        with foreign(path), open_regular(path) as file:
            file.read(1)


def files(step: pathlib.Path) -> dict[str, pathlib.Path]:
    """{"state/d/...": path} of the note of a step and of the files in its folders. Hidden files are
    a file server's, and nothing reads them. `OSError` where a folder cannot be read."""
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
    """The SHA-256 of a regular file."""
    with foreign(path), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
