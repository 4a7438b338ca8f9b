"""Alarms for collapsed features (a warning or a stop) and for a loss that jumps.

They read the metrics that the recorder fetches anyway, so they never make the loop wait.
"""

import collections
import logging
import math
import os
import statistics
from collections.abc import Callable, Sequence

from jssl.config import ConfigError, UserError, suggest
from jssl.config.values import Count, NonNegative

log = logging.getLogger("jssl")
CHOICES = ("warn", "stop", "off")


class CollapseAlarm:
    """Reports collapsed features; call it as ``alarm(step, values)`` at every visit.

    It reacts when the metric `feature_std` (1: evenly spread, 0: all features equal;
    `jssl.metrics`) was below the threshold at `patience` consecutive visits.

    Args:
      collapse: "warn" logs a line, "stop" raises, "off" does nothing.
      min_feature_std: the threshold.
      patience: visits.
      workdir: the folder of the run, for messages.
      checkpoints: returns the steps of the checkpoints on disk.
      start: the step where this process began; its features count as healthy.

    Raises:
      UserError: from a call, with "stop"; the message names the last good checkpoint.
    """

    def __init__(
        self,
        *,
        collapse: str,
        min_feature_std: NonNegative,
        patience: Count,
        workdir: str | os.PathLike[str],
        checkpoints: Callable[[], Sequence[int]],
        start: int,
    ) -> None:
        if collapse not in CHOICES:
            raise ConfigError(
                "config.alarm.collapse", collapse, "unknown", suggest(collapse, CHOICES)
            )
        if patience < 1:
            raise ConfigError("config.alarm.patience", patience, "must be at least 1", "try 3")
        self.stops = collapse == "stop"
        self.on = collapse != "off"
        self.threshold = min_feature_std
        self.patience = patience
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.low = 0  # consecutive visits below the threshold
        self.healthy = start  # the last step above it

    def __call__(self, step: int, values: dict[str, float]) -> None:
        feature_std = values.get("feature_std")
        if not self.on or feature_std is None or math.isnan(feature_std):
            return
        if feature_std >= self.threshold:
            self.low = 0
            self.healthy = step
            return
        self.low += 1
        if self.low == self.patience:
            message = (
                f"step {step}: the features have collapsed: feature_std={feature_std:.4f} is below "
                f"--config.alarm.min_feature_std={self.threshold} since step {self.healthy + 1}"
            )
            if self.stops:
                raise UserError(f"{message}; {self.cure()}")
            log.warning("%s; see config.alarm", message)

    def cure(self) -> str:
        """Names the last good checkpoint and what to change."""
        good = [step for step in self.checkpoints() if step <= self.healthy]
        where = f"{self.workdir}/checkpoints/{max(good)}" if good else "none is left"
        cure = "try a lower --config.optim.lr, or --config.alarm.collapse=warn"
        return f"last good checkpoint: {where}; {cure}"


class SpikeAlarm:
    """Warns if the loss is above `factor` times its median over the last 50 visits; 0: never.

    For losses above 0. The first ten visits only fill the memory.
    """

    def __init__(self, *, factor: float) -> None:
        self.factor = factor
        self.recent: collections.deque[float] = collections.deque(maxlen=50)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        loss = values.get("loss", math.nan)
        if self.factor and len(self.recent) >= 10 and math.isfinite(loss):
            usual = statistics.median(self.recent)
            if 0 < usual * self.factor < loss:
                log.warning("step %d: the loss leaps: %.4g, lately %.4g", step, loss, usual)
        if math.isfinite(loss):
            self.recent.append(loss)
