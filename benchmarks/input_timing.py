"""Times an iterator of batches and the memory of its worker processes; both sides of input.py."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

WARM = 8  # batches that are read first, so that no batch of the timed part was read ahead
TICK = os.sysconf("SC_CLK_TCK")


def measure(start: Callable[[], Iterator[Any]], batch_size: int, seconds: float) -> dict:
    """Reads batches as fast as possible.

    Args:
      start: opens the iterator. Its workers are children of this process.
      batch_size: examples of a batch.
      seconds: length of the timed part.

    Returns:
      first_s: seconds to the first batch; rate: examples per second; cpu_rate: examples per CPU
      second of this process and its workers; rss_mb, pss_mb: mean memory of a worker, if any.
    """
    began = time.perf_counter()
    batches = start()
    next(batches)
    found = {"first_s": time.perf_counter() - began}
    for _ in range(WARM):
        next(batches)
    workers = [process.pid for process in multiprocessing.active_children()]
    cpu = cpu_seconds(workers)
    began = time.perf_counter()
    count = 0
    while (wall := time.perf_counter() - began) < seconds:
        next(batches)
        count += batch_size
    found |= {"rate": count / wall, "cpu_rate": count / (cpu_seconds(workers) - cpu)}
    return found | memory(workers)


def memory(workers: list[int]) -> dict[str, float]:
    """Returns the mean resident and proportional memory of processes, in MB; {} if none."""
    if not workers:
        return {}
    rollups = [_rollup(worker) for worker in workers]
    return {
        f"{key.lower()}_mb": sum(rollup[key] for rollup in rollups) / len(rollups) / 1e3
        for key in ("Rss", "Pss")
    }


def cpu_seconds(workers: list[int]) -> float:
    """Returns the CPU seconds of this process and of `workers`."""
    total = time.process_time()
    for worker in workers:
        with open(f"/proc/{worker}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


def _rollup(worker: int) -> dict[str, float]:
    """Returns the kB of each kind of memory of a process."""
    with open(f"/proc/{worker}/smaps_rollup", encoding="ascii") as file:
        lines = [line.split() for line in file][1:]
    return {line[0].rstrip(":"): float(line[1]) * 1.024 for line in lines}
