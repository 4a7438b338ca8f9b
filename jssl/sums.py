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
    here = files(step)
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(here, pool.map(of, here.values()), strict=True))
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
    if gone := listed.keys() - files(step).keys():  # a list from elsewhere names no other files
        raise ValueError(f"{min(gone)} is gone")
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(mine, pool.map(of, (step / name for name in mine)), strict=True):
            if found != listed[name]:
                raise ValueError(f"{name} is not what was written")


def files(step: pathlib.Path) -> dict[str, pathlib.Path]:
    """{"state/d/...": path} of the files in the folders of a step."""
    return {str(p.relative_to(step)): p for p in sorted(step.glob("*/**/*")) if p.is_file()}


def of(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
