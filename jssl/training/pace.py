"""How many steps are queued on the device."""

import collections
import math
import time

import jax

SECONDS = 1.0  # what is queued may take


class Pace:
    """Bounds the steps that are queued on the device.

    At most `most` steps are queued, and no more than take `SECONDS`: a signal is answered when the
    queued ones are done. A step that takes longer than that is waited for before the next one is
    begun, so a signal is answered within one step however slow it is.
    """

    def __init__(self, most: int):
        self.most = most
        self.queued = collections.deque()
        self.mark = 0.0  # when the last wait was over
        self.seconds = math.inf  # of one step, as seen lately; the first one is waited for

    def add(self, value: jax.Array) -> None:
        """Notes that a step was begun, of which `value` is a result; waits for older ones."""
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
        """The steps that may be under way or queued now."""
        return min(self.most, int(SECONDS / max(self.seconds, 1e-9)))
