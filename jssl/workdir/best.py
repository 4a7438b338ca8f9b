"""Finds checkpoints by name: the best by a probe, the last, or that of a step."""

import re
from typing import Any

from jssl.config import ConfigError
from jssl.core import TrainState, Tree
from jssl.parallel import agreement
from jssl.workdir.checkpoint import Checkpoints

PROBE = "knn_top1"  # the probe that decides which checkpoint is the best
NAMES = ("best", "last")


def best_checkpoint(checkpoints: Checkpoints) -> dict[str, Any] | None:
    """Describes the checkpoint on disk with the best probe, the later one of equals.

    All processes of a run call it.

    Returns:
      {"step", "probe", "value", "checkpoint"}, with the folder relative to the workdir; None if no
      checkpoint on disk has a probe.
    """
    best = agreement.first(checkpoints.best)
    if best is None:
        return None
    step, value = best
    folder = f"{checkpoints.folder.name}/{step}"
    return {"step": step, "probe": PROBE, "value": value, "checkpoint": folder}


def check_name(step: str) -> None:
    """Raises `UserError` unless `step` is "best", "last" or a whole number."""
    if step not in NAMES and not re.fullmatch("[0-9]{1,18}", step):
        raise ConfigError("step", step, "no step", "use best, last or the number of a checkpoint")


def find_step(checkpoints: Checkpoints, step: str) -> int | None:
    """Finds the step of a checkpoint on disk.

    Args:
      checkpoints: the checkpoints of a run.
      step: "best", "last" or a number.

    Returns:
      The step; None for "last", which is the newest checkpoint that can be read.

    Raises:
      UserError: there is no such checkpoint, or none with a probe.
    """
    check_name(step)
    if step == "last":
        return None
    steps = checkpoints.steps()
    listed = ", ".join(str(known) for known in steps) or "none"
    if step == "best":
        best = agreement.first(checkpoints.best)
        if best is None:
            raise ConfigError(
                "step",
                step,
                f"no checkpoint has a probe (checkpoints: {listed})",
                "use last or a number; a run measures a probe with --config.eval.every",
            )
        return best[0]
    if int(step) not in steps:
        raise ConfigError(
            "step",
            int(step),
            f"there is no such checkpoint (there are: {listed})",
            "name one of these",
        )
    return int(step)


def restore_named(checkpoints: Checkpoints, shapes: Tree, step: str) -> TrainState | None:
    """Reads the checkpoint `step` (`find_step`); None if the run has no checkpoint yet."""
    number = find_step(checkpoints, step)
    return (
        checkpoints.restore(shapes) if number is None else checkpoints.restore_step(number, shapes)
    )
