"""Limits the number of steps that are queued on the device."""

import collections
import math
import time

import jax

SECONDS = 1.0  # the longest time of the queued steps


class Pace:
    """Bounds the steps that are queued on the device.

    At most `most` steps are queued, and together they take at most `SECONDS`, because the loop
    reacts to a signal when the queued steps are done. If one step takes longer, the loop waits for
    it before it begins the next step, so it reacts within one step.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.queued: collections.deque[jax.Array] = collections.deque()
        self.mark = 0.0  # the end of the last wait
        self.seconds = math.inf  # of a recent step; infinite, so that the loop waits for the first

    def add(self, value: jax.Array) -> None:
        """Call after a step was begun, with one of its results; waits for older steps."""
        self.mark = self.mark or time.perf_counter()
        self.queued.append(value)
        waited = 0
        while len(self.queued) > self.allowed():
            self.queued.popleft().block_until_ready()
            waited += 1
        if waited:
            now = time.perf_counter()
            self.seconds = (now - self.mark) / waited
            self.mark = now

    def allowed(self) -> int:
        """Returns the number of steps that may run or be queued now."""
        return min(self.most, int(SECONDS / max(self.seconds, 1e-9)))
