"""Names what shortens the wait for data, once in a run."""

import logging
import math
import os
from collections.abc import Callable

from jssl.data import DataConfig
from jssl.data.source import example_bytes

log = logging.getLogger("jssl")
WAIT = 0.05  # fraction of the time; a longer wait is reported


class DataWaitAlarm:
    """Logs one line if the steps wait for data; call it as ``alarm(step, values)`` at every visit.

    The first visit does not count, because workers start in it. After one line there is no other.

    Args:
      data: how the data are read.
      free: returns the free bytes of a device; NaN if unknown.
    """

    def __init__(self, data: DataConfig, free: Callable[[], float]) -> None:
        self.data = data
        self.free = free
        self.visits = 0
        self.done = False

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.visits += 1
        wait = values.get("data_wait_fraction", 0.0)
        if self.done or self.visits == 1 or not wait > WAIT:
            return
        self.done = True
        cure = find_cure(self.data, wait, self.free(), os.cpu_count() or 1)
        if cure:
            log.warning("step %d: %.0f %% of the time is wait for data; %s", step, 100 * wait, cure)


def find_cure(data: DataConfig, wait: float, free: float, cores: int) -> str:
    """Returns what shortens the wait for data: the key or the command; "" if nothing does.

    Args:
      data: how the data are read.
      wait: fraction of the time that the steps wait.
      free: free bytes of a device; NaN if unknown.
      cores: number of cores of this machine.
    """
    if data.on_device:
        return ""
    size = len(data.source) * example_bytes(data.source)
    if size < free / 2:  # a step needs memory that is free between two steps
        return (
            f"set --config.data.on_device=True: the data need {size / 1e9:.2g} GB, and "
            f"{free / 1e9:.2g} GB of the device are free"
        )
    decodes = hasattr(data.source, "pixels")
    readers = max(data.workers, 1)
    enough = math.ceil(readers / (1 - min(wait, 0.99)))
    if data.workers < cores and (enough <= cores or not decodes):
        count = min(max(enough, data.workers + 1), cores)
        return f"set --config.data.workers={count} (now {data.workers}; {cores} cores are here)"
    if decodes:
        return (
            "decode the images once with `jssl data pack`: "
            f"{cores} cores are too few to decode them in every step"
        )
    return ""
