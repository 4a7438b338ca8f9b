"""Says in one sentence that the loss and the probe of a run moved in opposite directions."""

import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jssl.data import files
from jssl.training import loggers
from jssl.workdir.best import PROBE
from jssl.workdir.metrics_file import lines

PROBE_CHANGE = 0.01  # accuracies that differ by less count as equal
LOSS_CHANGE = 0.01  # losses that differ by less count as equal, relative to the first


class Evaluation(NamedTuple):
    """The probe of a step, and the median loss since the evaluation before."""

    step: int
    probe: float
    loss: float


def evaluations(rows: Iterable[Mapping[str, Any]]) -> list[Evaluation]:
    """Collects the evaluations in the rows of metrics.jsonl, in ascending order of the steps."""
    losses: dict[int, float] = {}
    probes: dict[int, float] = {}
    for row in rows:
        loss = loggers.number(row.get("loss"))
        probe = loggers.number(row.get(PROBE))
        if loss is not None:
            losses[row["step"]] = loss
        if probe is not None:
            probes[row["step"]] = probe
    found = []
    before = 0
    for step, probe in sorted(probes.items()):
        recent = [loss for at, loss in losses.items() if before < at <= step]
        if recent:
            found.append(Evaluation(step, probe, statistics.median(recent)))
        before = step
    return found


def sentence(found: list[Evaluation]) -> str:
    """Returns a sentence about a loss and a probe that disagree; "" if they agree."""
    if len(found) < 2:
        return ""
    first = found[0]
    last = found[-1]
    best = max(found, key=lambda evaluation: evaluation.probe)
    margin = LOSS_CHANGE * abs(first.loss)
    if last.probe > first.probe + PROBE_CHANGE and last.loss > first.loss + margin:
        return (
            f"the loss rose from {first.loss:.4g} to {last.loss:.4g} while {PROBE} improved from "
            f"{first.probe:.4f} to {last.probe:.4f}: the loss of DINO and I-JEPA may rise, because "
            "its targets change; the probe is the better measure"
        )
    if last.probe < best.probe - PROBE_CHANGE and last.loss < best.loss - margin:
        return (
            f"{PROBE} fell from {best.probe:.4f} at step {best.step} to {last.probe:.4f} while the "
            f"loss improved from {best.loss:.4g} to {last.loss:.4g}: the best checkpoint may be "
            "better than the last"
        )
    return ""


def of_run(folder: pathlib.Path, step: int) -> str:
    """`sentence` for the metrics.jsonl of a run up to `step`; "" if it cannot be read."""
    try:
        rows = [row for _, row in lines(folder / loggers.METRICS) if row and row["step"] <= step]
    except (OSError, files.Damaged):
        return ""
    return sentence(evaluations(rows))
