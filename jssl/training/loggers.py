"""Where scalars are written: metrics.jsonl, TensorBoard, trackers.

A sink is called with (step, {name: float}). The recorder calls its `rewind(step)` when a run
continues from an earlier step, and its `close()` when the process ends. All sinks but metrics.jsonl
also have `show(step, pictures)`, and `end()`, which is called if the run is done. Each sink is
behind an `Outbox`, so it may be slow or fail.
"""

import json
import math
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from jssl.data import files
from jssl.training import trackers
from jssl.training.appender import Appender
from jssl.training.outbox import Outbox
from jssl.training.tensorboard import TensorBoard
from jssl.workdir.metrics_file import lines

METRICS = "metrics.jsonl"


class Jsonl:
    """The file metrics.jsonl: one JSON object per line, in the order of the steps.

    Args:
      path: the file.
      start: the step from which the run continues. Lines of later steps are removed, because the
        run writes them again.
    """

    def __init__(self, path: str | os.PathLike[str], start: int | None = None) -> None:
        self.path = pathlib.Path(path)
        if start is not None:
            supersede(self.path, start)
        self.out = Appender(self.path)
        size = os.fstat(self.out.file.fileno()).st_size
        # A full disk or a lost machine may have cut the last line off.
        if size and os.pread(self.out.file.fileno(), 1, size - 1) != b"\n":
            self.out.write(b"\n")

    def __call__(self, step: int, values: dict[str, float]) -> None:
        finite = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self.out.write((json.dumps({"step": step, **finite}) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Removes the lines of later steps."""
        self.out.close()
        try:
            supersede(self.path, step)
        finally:
            self.out = Appender(self.path)

    def close(self) -> None:
        self.out.close()


def supersede(path: pathlib.Path, step: int) -> None:
    """Removes the lines of steps after `step` from metrics.jsonl, which the run writes again.

    The file is replaced as a whole, and only if there are such lines.
    """
    if not os.path.lexists(path) or not any(row and row["step"] > step for _, row in lines(path)):
        return
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".part", dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as kept:
            for line, row in lines(path):
                if row is None or row["step"] <= step:
                    kept.write(line)
            os.fchmod(kept.fileno(), stat.S_IMODE(os.lstat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def newest(folder: str | os.PathLike[str], upto: int) -> dict[str, tuple[int, float]]:
    """Reads the newest value of every metric in metrics.jsonl, {name: (step, value)}.

    Only steps up to `upto` count. A file that cannot be read, and lines that jssl did not write,
    are ignored, because a run can continue without old metrics.
    """
    latest: dict[str, tuple[int, float]] = {}
    try:
        for _, row in lines(pathlib.Path(folder) / METRICS):
            if row and row["step"] <= upto:
                for key, value in row.items():
                    parsed = None if key == "step" else number(value)
                    if parsed is not None:
                        latest[key] = (row["step"], parsed)
    except (OSError, files.Damaged):
        return latest
    return latest


def number(value: Any) -> float | None:
    """Parses a number as `Jsonl` writes it: "nan" and "inf" are texts. None for other values."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return value if type(value) in (int, float) else None


def open_all(
    workdir: str | os.PathLike[str],
    *,
    start: int,
    config: dict[str, Any],
    tensorboard: bool,
    wandb: str,
    mlflow: str,
) -> list[Outbox]:
    """Opens an `Outbox` for each sink: metrics.jsonl always, the others by config.

    Args:
      workdir: the folder of the run.
      start: the step from which the run continues.
      config: the config of the run, for TensorBoard and trackers.
      tensorboard: whether to write for TensorBoard.
      wandb: a project of Weights & Biases; "": none.
      mlflow: an experiment of MLflow; "": none.

    Raises:
      UserError: the package of a tracker is missing.
    """
    workdir = pathlib.Path(workdir)
    leaves = trackers.flat(config)
    openers: dict[str, Callable[[], Any]] = {METRICS: partial(Jsonl, workdir / METRICS, start)}
    if wandb:
        trackers.need("wandb", wandb)
        openers["log.wandb"] = partial(trackers.Wandb, wandb, workdir, config)
    if mlflow:
        trackers.need("mlflow", mlflow)
        openers["log.mlflow"] = partial(trackers.Mlflow, mlflow, workdir, config)
    if tensorboard:
        openers["TensorBoard"] = partial(TensorBoard, workdir / "tensorboard", leaves, start)
    boxes = [Outbox(name, opener) for name, opener in openers.items()]
    for box in boxes:
        box.post(lambda sink: None, records=0)  # opens the sink before the first metrics
    return boxes
