"""Batches on the host: sources are read here, by threads or by worker processes. Knows no JAX."""

import itertools
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from jssl.config import UserError
from jssl.data.sampling import data_offset, indices
from jssl.data.source import example_bytes
from jssl.parallel import host, preemption

_log = logging.getLogger("jssl")
DEATHS = 3  # of workers, in a row
SCRIPT = (
    "a worker process imports the script that started it, and this one trains when it is imported; "
    'put its code under `if __name__ == "__main__":`, or set data.workers=0'
)
_PART = 64 * 2**20  # bytes that a worker hands over at a time; bounds its memory for large batches
_CHUNK = 8 * 2**20  # bytes that a thread reads at a time


class Steps:
    """Random access to the endless stream, for Grain: element ``step * parts + k`` is the k-th part
    of the rows `rows` (int64 [r], positions in the global batch) of that step."""

    def __init__(self, source, seed: int, batch_size: int, rows: np.ndarray, passed=()):
        self.source = source
        self.seed = seed
        self.batch_size = batch_size
        self.rows = rows
        self.passed = passed
        self.parts = math.ceil(len(rows) * example_bytes(source) / _PART)

    def __len__(self):
        return 2**40 * self.parts

    def __getitem__(self, element: int) -> dict[str, np.ndarray]:
        step, part = divmod(int(element), self.parts)
        step += data_offset(self.passed, step)
        wanted = indices(self.seed, step, len(self.source), self.batch_size)[self.rows]
        return self.source.read(np.array_split(wanted, self.parts)[part])


def stream(
    source,
    *,
    seed: int,
    batch_size: int,
    rows: np.ndarray,
    start: int,
    workers: int,
    passed=(),
    closing: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields what `source.read` gives for the rows of steps `start`, `start` + 1, ... of a run that
    has `passed` over examples (`order.lead`).

    `workers` processes read ahead, or one thread if there are none; the stream is the same. Errors
    of a worker are raised here. Where a worker was killed, new ones go on at the step that is due;
    `UserError` if that happens `DEATHS` times without a batch between, or if a worker ran the
    caller's script (`surroundings.check_rerun`). Closing the generator ends the workers; where
    `closing` is true, one that was killed ends the stream.
    """
    steps = Steps(source, seed, batch_size, rows, passed)
    step = start
    deaths = 0
    while True:
        elements = _elements(steps, step, workers)
        try:
            while True:
                yield _next(elements, steps.parts, workers > 0)
                step = step + 1
                deaths = 0
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain's words for a killed worker
                raise
            if closing():
                return
            if f"exit code {host.RERUN}." in str(error):
                raise UserError(f"data.workers={workers}: {SCRIPT}") from None
            deaths += 1
            if host.shared_memory_is_short(_PART):
                raise UserError(host.shared_memory()) from None
            if deaths == DEATHS:
                raise UserError(
                    f"data.workers={workers}: one was killed {deaths} times in a row ({error}); "
                    "is memory short? use fewer"
                ) from None
            _log.warning("a data worker was killed: new ones go on at step %d (%s)", step, error)
        finally:
            elements.close()


def chunks(source, progress: Callable) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Reads a whole source once, in order, by threads: yields (first index, batch).

    Only a few chunks are in memory at a time. Calls `progress(done, total)` after each.
    """
    total = len(source)
    threads = min(16, os.cpu_count() or 1)
    size = max(1, min(1024, _CHUNK // example_bytes(source)))
    ahead = deque()
    starts = iter(range(0, total, size))
    with preemption.pool(threads) as pool:
        while True:
            for first in itertools.islice(starts, 2 * threads - len(ahead)):
                wanted = np.arange(first, min(first + size, total))
                ahead.append((first, pool.submit(source.read, wanted)))
            if not ahead:
                return
            first, future = ahead.popleft()
            yield first, preemption.result(future)
            progress(min(first + size, total), total)


def read_all(source, progress: Callable) -> dict[str, np.ndarray]:
    """A whole source as one batch of len(source) examples."""
    whole = {}
    for first, batch in chunks(source, progress):
        for key, value in batch.items():
            if first == 0:
                whole[key] = np.empty((len(source), *value.shape[1:]), value.dtype)
            whole[key][first : first + len(value)] = value
    return whole


def _elements(steps, start, workers):
    import grain  # takes a second, and resident data sets never need it
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, and fail without
        flags.FLAGS(["jssl"])
    ahead = grain.ReadOptions(num_threads=0 if workers else 1, prefetch_buffer_size=2)
    ds = grain.MapDataset.source(steps)[start * steps.parts :].to_iter_dataset(ahead)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        ds = ds.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(ds)


def _start_worker(index, count):
    """The run's own process decides on signals: it saves first, while workers still read.

    In return a worker watches that process, and ends with it even if it is killed.
    """
    for kind in preemption.KINDS:
        signal.signal(kind, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def kill_workers() -> None:
    """Kills the data workers of this process. A run that still needs its own starts new ones."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-process-prefetch"):
            process.kill()


def check_start(workers: int) -> None:
    """`UserError` if `workers` are wanted by a process that may start none; see `check_rerun`."""
    host.check_rerun()
    if workers and multiprocessing.current_process().daemon:
        raise UserError(
            f"data.workers={workers}: this process is a daemon of multiprocessing, which may start "
            "no others; set data.workers=0, or start it with daemon=False"
        )


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _next(elements, count, shared):
    parts = list(itertools.islice(elements, count))
    if count == 1 and not shared:
        return parts[0]
    # A copy even of one part, if it lies in a worker's shared memory: that is then free again at
    # once, where JAX on a CPU would take it for its own and keep it.
    return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
