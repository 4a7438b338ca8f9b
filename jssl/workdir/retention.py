"""Decides which checkpoints are kept: the latest N, and the best K by kNN accuracy.

The scores are in ``checkpoints/scores.json``. They may come after a checkpoint was written, so that
an evaluation runs after its step is saved.
"""

import logging
import math
import os
import pathlib
import re
import shutil
from typing import Any

import jax

from jssl.data import files
from jssl.data.files import Damaged, Unreachable, one_line

log = logging.getLogger("jssl")
SCORES = "scores.json"  # {step: kNN accuracy}
OLD_SCORE = "metrics/metrics"  # in a step, {"knn_top1": ...}: the former file of a score
DOOMED = ".deleted-"  # the prefix of a step that is being deleted


class Retention:
    """The steps of one folder of checkpoints. Only the first process writes and deletes.

    Args:
      folder: the folder of checkpoints.
      keep_latest: the number of latest checkpoints that are kept.
      keep_best: the number of best checkpoints that are kept.
    """

    def __init__(self, folder: pathlib.Path, keep_latest: int, keep_best: int) -> None:
        self.folder = folder
        self.keep_latest = keep_latest
        self.keep_best = keep_best
        self.path = folder / SCORES
        self.main = jax.process_index() == 0
        self.scores = self._read() if self.main else {}
        self._kept: set[int] = set()  # steps that could not be deleted: one warning for each

    def listed(self) -> list[int]:
        """Lists the complete steps on disk, ascending; raises `OSError` if it cannot read them."""
        if not self.folder.exists():
            return []
        entries = [(step_of(path.name), path) for path in self.folder.iterdir()]
        return sorted(step for step, path in entries if step is not None and path.is_dir())

    def score(self, step: int, knn: float) -> None:
        """Stores the accuracy of a step. A full disk causes a warning only."""
        if not self.main or not math.isfinite(knn):
            return
        self.scores[step] = float(knn)
        self.scores = {at: self.scores[at] for at in sorted(self.scores)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(self.path, {str(k): v for k, v in self.scores.items()})
        except OSError as error:
            log.warning("step %d: its score is not kept: %s", step, one_line(error))

    def forget_after(self, step: int) -> None:
        """Drops the scores of steps after `step`, which the run does again."""
        self.scores = {at: score for at, score in self.scores.items() if at <= step}

    def best(self) -> tuple[int, float] | None:
        """Returns (step, score) of the best complete step on disk, the later one of equals.

        None if none of them has a score.
        """
        ranked = [(self.scores[step], step) for step in self.listed() if step in self.scores]
        if not ranked:
            return None
        score, step = max(ranked)
        return step, score

    def delete_old(self) -> None:
        """Deletes all but the latest and the best steps.

        A step that cannot be deleted causes a warning. A link stays, because its target may belong
        to another person.
        """
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
                path.rename(doomed)  # atomic: no reader sees half a step
                shutil.rmtree(doomed)
            except OSError as error:
                self._kept.add(step)
                why = one_line(error)
                log.warning("checkpoint %d is kept, it cannot be deleted: %s", step, why)

    def clean(self) -> None:
        """Removes steps whose deletion was interrupted, and renames links that look half written.

        Orbax deletes half-written steps, and fails at links.
        """
        if not self.main or not self.folder.exists():
            return
        for path in sorted(self.folder.iterdir()):
            if path.is_symlink() and "orbax" in path.name:
                rename(path, f"linked-{path.name.partition('.')[0]}")
            elif path.name.startswith(DOOMED) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> dict[int, float]:
        """Reads {step: score}, without unreadable ones: scores only decide what is kept."""
        try:
            steps = self.listed()
        except OSError:
            steps = []
        scores = {step: _number(_json(self.folder / str(step) / OLD_SCORE)) for step in steps}
        content = _json(self.path)
        content = {} if content is None else content
        if not isinstance(content, dict) or not all(
            step_of(name) is not None and _number({"knn_top1": value}) is not None
            for name, value in content.items()
        ):
            log.warning("the scores of the checkpoints are not known: %s is damaged", self.path)
            content = {}
        scores |= {int(name): float(value) for name, value in content.items()}
        return {step: score for step, score in scores.items() if score is not None}


def rename(path: pathlib.Path, name: str) -> None:
    """Renames a file or folder in its own folder; adds a number if the name is taken."""
    target = path.with_name(name)
    number = 0
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{name}-{number}")
    path.rename(target)


def step_of(name: str) -> int | None:
    """Returns the step after which a folder is named; None for other names."""
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else None


def _json(path: pathlib.Path) -> Any:
    """Reads a JSON file; None if there is none, or, with a warning, if it is damaged."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except (Damaged, Unreachable) as error:
        log.warning("the scores of the checkpoints are not known: %s", error)
        return None


def _number(content: Any) -> float | None:
    """Returns the score in the metrics of a step; None if there is none (formerly -1)."""
    value: Any = content.get("knn_top1") if isinstance(content, dict) else None
    if type(value) not in (int, float):
        return None
    score = float(value)
    return score if score >= 0 and math.isfinite(score) else None
