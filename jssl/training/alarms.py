"""The alarms: collapsed features (warn, or stop before more time is lost), a loss that leaps.

They hear the metrics that the recorder fetches anyway, so they never make the loop wait.
"""

import collections
import logging
import math
import statistics

from jssl.config import UserError, suggest
from jssl.config.values import Count, NonNegative

log = logging.getLogger("jssl")
CHOICES = ("warn", "stop", "off")


class CollapseAlarm:
    """A sink of metrics: ``alarm(step, values)``.

    Rings when `feature_std` (1: evenly spread, 0: all features equal; `jssl.metrics`) was below
    the threshold at `patience` visits in a row: "warn" logs a line, "stop" raises a `UserError`
    that names the last checkpoint from before. `checkpoints()` gives the steps that are on disk;
    `start` is the step where this process began, whose features count as healthy.
    """

    def __init__(
        self,
        *,
        collapse: str,
        min_feature_std: NonNegative,
        patience: Count,
        workdir,
        checkpoints,
        start: int,
    ):
        if collapse not in CHOICES:
            raise UserError(f"alarm.collapse={collapse!r} is unknown; {suggest(collapse, CHOICES)}")
        if patience < 1:
            raise UserError(f"alarm.patience={patience} must be at least 1")
        self.stops = collapse == "stop"
        self.on = collapse != "off"
        self.threshold = min_feature_std
        self.patience = patience
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.low = 0
        self.healthy = start  # visits below the threshold; the last step above it

    def __call__(self, step: int, values: dict[str, float]) -> None:
        now = values.get("feature_std")
        if not self.on or now is None or math.isnan(now):
            return
        if now >= self.threshold:
            self.low = 0
            self.healthy = step
            return
        self.low += 1
        if self.low == self.patience:
            said = (
                f"step {step}: the features have collapsed: feature_std={now:.4f} is below "
                f"config.alarm.min_feature_std={self.threshold} since step {self.healthy + 1}"
            )
            if self.stops:
                raise UserError(f"{said}; {self.cure()}")
            log.warning("%s; see config.alarm", said)

    def cure(self) -> str:
        good = [step for step in self.checkpoints() if step <= self.healthy]
        where = f"{self.workdir}/checkpoints/{max(good)}" if good else "none is left"
        return f"last good checkpoint: {where}; try a lower optim.lr, or alarm.collapse='warn'"


class SpikeAlarm:
    """A sink of metrics: warns where the loss is above `spike` times its median of the last 50
    visits; 0: never. For losses above 0; the first ten visits only fill the memory."""

    def __init__(self, *, factor: float):
        self.factor = factor
        self.recent = collections.deque(maxlen=50)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        loss = values.get("loss", math.nan)
        if self.factor and len(self.recent) >= 10 and math.isfinite(loss):
            usual = statistics.median(self.recent)
            if 0 < usual * self.factor < loss:
                log.warning("step %d: the loss leaps: %.4g, lately %.4g", step, loss, usual)
        if math.isfinite(loss):
            self.recent.append(loss)
