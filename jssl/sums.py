"""The SHA-256 of every file of a checkpoint: taken before it is made final, compared before it is
read.

Orbax's format has checksums of its index only: an array of which a bit has flipped on the disk is
read as it is, without a word.
"""

import hashlib
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

NAME = "sha256.json"
THREADS = 8  # hashing leaves the interpreter's lock to the others


def write(step: pathlib.Path) -> None:
    """Lists what lies in the folders of a step: {"state/d/...": sum} as <step>/sha256.json."""
    files = sorted(path for path in step.glob("*/**/*") if path.is_file())
    with ThreadPoolExecutor(THREADS) as pool:
        found = {
            str(path.relative_to(step)): one
            for path, one in zip(files, pool.map(of, files), strict=True)
        }
    (step / NAME).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def check(step: pathlib.Path, part: int = 0, parts: int = 1) -> None:
    """`ValueError` that names a file of the step which is not what was written; every so many
    processes look at a `part` of them. A step without a list (jssl had none before) passes."""
    if not (step / NAME).exists():
        return
    listed = json.loads((step / NAME).read_text(encoding="utf-8"))
    if not isinstance(listed, dict):
        raise ValueError(f"{NAME} is not what jssl writes")
    mine = sorted(listed)[part::parts]
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(mine, pool.map(lambda name: of(step / name), mine), strict=True):
            if found != listed[name]:
                raise ValueError(f"{name} is not what was written" if found else f"{name} is gone")


def of(path: pathlib.Path) -> str:
    """The file's sum; "" if there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
