"""Which checkpoints are kept: the latest N, and the best K by kNN accuracy.

The scores are in ``checkpoints/scores.json``. They may come after a checkpoint was written, so that
an evaluation runs when its step is safe.
"""

import logging
import math
import os
import pathlib
import re
import shutil

import jax

from jssl.data import files
from jssl.data.files import Damaged, Unreachable, one_line

log = logging.getLogger("jssl")
SCORES = "scores.json"  # {step: kNN accuracy}
OLD_SCORE = "metrics/metrics"  # of a step, {"knn_top1": ...}: where scores were before
DOOMED = ".deleted-"  # what a step that is being deleted is called


class Retention:
    """The steps of one folder of checkpoints. Only the first process writes and deletes."""

    def __init__(self, folder: pathlib.Path, keep_latest: int, keep_best: int):
        self.folder = folder
        self.keep_latest = keep_latest
        self.keep_best = keep_best
        self.path = folder / SCORES
        self.main = jax.process_index() == 0
        self.scores = self._read() if self.main else {}
        self._kept: set[int] = set()  # could not be deleted: warned of once

    def listed(self) -> list[int]:
        """The steps that are whole on disk, ascending. `OSError` where that cannot be read."""
        if not self.folder.exists():
            return []
        entries = [(step_of(path.name), path) for path in self.folder.iterdir()]
        return sorted(step for step, path in entries if step is not None and path.is_dir())

    def score(self, step: int, knn: float) -> None:
        """Notes the accuracy of a step. A disk that is full is a warning."""
        if not self.main or not math.isfinite(knn):
            return
        self.scores[step] = float(knn)
        self.scores = {at: self.scores[at] for at in sorted(self.scores)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(self.path, {str(k): v for k, v in self.scores.items()})
        except OSError as error:
            log.warning("step %d: its score is not kept: %s", step, one_line(error))

    def delete_old(self) -> None:
        """Deletes all but the latest and the best. What cannot be deleted is warned of, and a link
        stays: its target is somebody else's."""
        if not self.main:
            return
        steps = self.listed()
        ranked = sorted((self.scores[step], step) for step in steps if step in self.scores)
        best = [step for _, step in ranked[::-1][: self.keep_best]]
        for step in sorted({*steps} - {*steps[-self.keep_latest :], *best} - self._kept):
            path = self.folder / str(step)
            doomed = self.folder / f"{DOOMED}{step}"
            try:
                if path.is_symlink():
                    raise OSError("it is a link")
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)  # in one go: no reader meets half a step
                shutil.rmtree(doomed)
            except OSError as error:
                self._kept.add(step)
                why = one_line(error)
                log.warning("checkpoint %d is kept, it cannot be deleted: %s", step, why)

    def clean(self) -> None:
        """Removes steps whose deletion was cut off, and renames links that look half written: Orbax
        deletes what does, and fails at links."""
        if not self.main or not self.folder.exists():
            return
        for path in sorted(self.folder.iterdir()):
            if path.is_symlink() and "orbax" in path.name:
                rename(path, f"linked-{path.name.partition('.')[0]}")
            elif path.name.startswith(DOOMED) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> dict[int, float]:
        """{step: score}; what cannot be read is left out, since it only says what is kept."""
        try:
            steps = self.listed()
        except OSError:
            steps = []
        scores = {step: _number(_json(self.folder / str(step) / OLD_SCORE)) for step in steps}
        known = _json(self.path)
        known = {} if known is None else known
        if not isinstance(known, dict) or not all(
            step_of(name) is not None and _number({"knn_top1": value}) is not None
            for name, value in known.items()
        ):
            log.warning("the scores of the checkpoints are not known: %s is damaged", self.path)
            known = {}
        scores |= {int(name): float(value) for name, value in known.items()}
        return {step: score for step, score in scores.items() if score is not None}


def rename(path: pathlib.Path, name: str) -> None:
    """Gives a file or folder another name beside it, with a number if that name is taken."""
    target = path.with_name(name)
    number = 0
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{name}-{number}")
    path.rename(target)


def step_of(name: str) -> int | None:
    """The step that a folder is named after, or None."""
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else None


def _json(path: pathlib.Path):
    """The value of a JSON file; None where there is none, with a warning where it is damaged."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except (Damaged, Unreachable) as error:
        log.warning("the scores of the checkpoints are not known: %s", error)
        return None


def _number(found) -> float | None:
    value = found.get("knn_top1") if isinstance(found, dict) else None
    good = type(value) in (int, float) and value >= 0 and math.isfinite(value)  # before: -1, none
    return float(value) if good else None
