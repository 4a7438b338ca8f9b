"""The alarm for collapsed features: warn, or stop before more time is lost.

It hears the metrics that the recorder fetches anyway, so it never makes the loop wait.
"""

import logging
import math

from jssl.config import UserError, near

log = logging.getLogger("jssl")
CHOICES = ("warn", "stop", "off")


class CollapseAlarm:
    """A sink of metrics: ``alarm(step, values)``.

    Rings when `feature_std` (1: evenly spread, 0: all features equal; `jssl.diagnose`) was below
    the threshold at `patience` visits in a row: "warn" logs a line, "stop" raises a `UserError`
    that names the last checkpoint from before. `checkpoints()` gives the steps that are on disk;
    `start` is the step where this process began, whose features count as healthy.
    """

    def __init__(
        self, *, collapse: str, feature_std: float, patience: int, workdir, checkpoints, start: int
    ):
        if collapse not in CHOICES:
            raise UserError(f"alarm.collapse={collapse!r} is unknown; {near(collapse, CHOICES)}")
        if patience < 1:
            raise UserError(f"alarm.patience={patience} must be at least 1")
        self.stops, self.on = collapse == "stop", collapse != "off"
        self.threshold, self.patience = feature_std, patience
        self.workdir, self.checkpoints = workdir, checkpoints
        self.low, self.healthy = 0, start  # visits below the threshold; the last step above it

    def __call__(self, step: int, values: dict[str, float]) -> None:
        now = values.get("feature_std")
        if not self.on or now is None or math.isnan(now):
            return
        if now >= self.threshold:
            self.low, self.healthy = 0, step
            return
        self.low += 1
        if self.low == self.patience:
            said = (
                f"step {step}: the features have collapsed: feature_std={now:.4f} is below "
                f"config.alarm.feature_std={self.threshold} since step {self.healthy + 1}"
            )
            if self.stops:
                raise UserError(f"{said}; {self.cure()}")
            log.warning("%s; see config.alarm", said)

    def cure(self) -> str:
        good = [step for step in self.checkpoints() if step <= self.healthy]
        where = f"{self.workdir}/checkpoints/{max(good)}" if good else "none is left"
        return f"last good checkpoint: {where}; try a lower optim.lr, or alarm.collapse='warn'"

    def close(self) -> None:
        pass
