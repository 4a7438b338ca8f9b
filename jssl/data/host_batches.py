"""Batches on the host: threads or worker processes read sources here. Does not import JAX."""

import itertools
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.data.sampling import data_offset, indices
from jssl.data.source import Batch, Source, example_bytes
from jssl.parallel import host, preemption

_log = logging.getLogger("jssl")
DEATHS = 3  # of workers without a batch in between, after which the run stops
SCRIPT = (
    "a worker process imports the script that started it, and this script trains when imported; "
    'put its code under `if __name__ == "__main__":`, or set --config.data.workers=0'
)
_PART = 64 * 2**20  # bytes that a worker sends at a time; bounds its memory for large batches
_CHUNK = 8 * 2**20  # bytes that a thread reads at a time


class Steps:
    """Random access to the endless stream of batches.

    Grain's workers read a step in several parts. Element ``step * parts + k`` is part k of a step.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        batch_size: int,
        rows: np.ndarray,
        passed: Iterable[Sequence[int]] = (),
    ):
        """Describes the stream.

        Args:
          source: the source of the examples.
          seed: seed of their order.
          batch_size: examples of the global batch.
          rows: int64 [r], the positions in the global batch that are read.
          passed: the skipped ranges of the run (`jssl.data.sampling.data_offset`).
        """
        self.source = source
        self.seed = seed
        self.batch_size = batch_size
        self.rows = rows
        self.passed = passed
        self.parts = math.ceil(len(rows) * example_bytes(source) / _PART)

    def __len__(self) -> int:
        return 2**40 * self.parts

    def __getitem__(self, element: int) -> Batch:
        step, part = divmod(int(element), self.parts)
        return self.source.read(np.array_split(self.examples(step), self.parts)[part])

    def examples(self, step: int) -> np.ndarray:
        """Returns the examples of a step that are read: int64 [r]."""
        step += data_offset(self.passed, step)
        return indices(self.seed, step, len(self.source), self.batch_size)[self.rows]

    def batch(self, step: int) -> Batch:
        """Reads a whole step."""
        return self.source.read(self.examples(step))


def stream(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    rows: np.ndarray,
    start: int,
    workers: int,
    passed: Iterable[Sequence[int]] = (),
    closing: Callable[[], bool] = lambda: False,
) -> Generator[Batch]:
    """Yields the batches of steps `start`, `start` + 1, ... of a run, as `source.read` gives them.

    Worker processes read ahead, or one thread if `workers` is 0; the stream is the same. If a
    worker is killed, new workers start at the step that is due. An error in a worker is raised
    here. Closing the generator ends the workers.

    Args:
      source: the source of the examples.
      seed: seed of their order.
      batch_size: examples of the global batch.
      rows: int64 [r], the positions in the global batch that are read.
      start: the first step.
      workers: number of worker processes.
      passed: the skipped ranges of the run (`jssl.data.sampling.data_offset`).
      closing: returns whether the stream is being closed. If it is, a killed worker ends the
        stream.

    Raises:
      UserError: workers were killed `DEATHS` times without a batch in between, or a worker ran the
        caller's script (`jssl.parallel.host.check_rerun`).
    """
    steps = Steps(source, seed, batch_size, rows, passed)
    if not workers:
        yield from _by_thread(steps, start)
        return
    step = start
    deaths = 0
    while True:
        elements = _elements(steps, step, workers)
        try:
            while True:
                yield _next(elements, steps.parts)
                step = step + 1
                deaths = 0
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # Grain's message for a killed worker
                raise
            if closing():
                return
            if f"exit code {host.RERUN}." in str(error):
                raise UserError(f"--config.data.workers={workers}: {SCRIPT}") from None
            deaths += 1
            if host.shared_memory_is_short(_PART):
                raise UserError(host.shared_memory()) from None
            if deaths == DEATHS:
                raise ConfigError(
                    "config.data.workers",
                    workers,
                    f"one was killed {deaths} times in a row ({error}), perhaps for want of memory",
                    "use fewer",
                ) from None
            _log.warning("a data worker was killed: new ones go on at step %d (%s)", step, error)
        finally:
            elements.close()


def chunks(source: Source, progress: Callable[[int, int], None]) -> Generator[tuple[int, Batch]]:
    """Reads a whole source once, in order, by threads: yields (first index, batch).

    Only a few chunks are in memory at a time. Calls `progress(done, total)` after each chunk.
    """
    total = len(source)
    threads = min(16, os.cpu_count() or 1)
    size = max(1, min(1024, _CHUNK // example_bytes(source)))
    ahead: deque[tuple[int, Future[Batch]]] = deque()
    starts = iter(range(0, total, size))
    with preemption.pool(threads) as pool:
        while True:
            for first in itertools.islice(starts, 2 * threads - len(ahead)):
                rows = np.arange(first, min(first + size, total))
                ahead.append((first, pool.submit(source.read, rows)))
            if not ahead:
                return
            first, future = ahead.popleft()
            yield first, preemption.result(future)
            progress(min(first + size, total), total)


def read_all(source: Source, progress: Callable[[int, int], None]) -> Batch:
    """Returns a whole source as one batch of len(source) examples."""
    whole: Batch = {}
    for first, batch in chunks(source, progress):
        for key, value in batch.items():
            if first == 0:
                whole[key] = np.empty((len(source), *value.shape[1:]), value.dtype)
            whole[key][first : first + len(value)] = value
    return whole


def _by_thread(steps: Steps, start: int) -> Generator[Batch]:
    """Yields the batches from step `start` on. One thread reads one batch ahead."""
    with preemption.pool(1) as pool:
        ahead = pool.submit(steps.batch, start)
        for step in itertools.count(start + 1):
            due = ahead
            ahead = pool.submit(steps.batch, step)
            yield due.result()


def _elements(steps: Steps, start: int, workers: int) -> Any:
    """Returns Grain's iterator over the elements of `steps` from step `start` on."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, and fail without
        flags.FLAGS(["jssl"])
    ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=2)
    elements: Any = steps  # Grain needs only `__len__` and `__getitem__`
    ds = grain.MapDataset.source(elements)[start * steps.parts :].to_iter_dataset(ahead)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return iter(ds.mp_prefetch(options, worker_init_fn=_start_worker))


def _start_worker(index: int, count: int) -> None:
    """Ignores signals in a worker, and ends the worker when its parent process dies.

    The parent process handles signals: it first saves, while workers still read.
    """
    for kind in preemption.KINDS:
        signal.signal(kind, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def kill_workers() -> None:
    """Kills the data workers of this process. A run that still needs workers starts new ones."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-process-prefetch"):
            process.kill()


def prepare_start(workers: int) -> None:
    """Imports Grain if there are workers; the main thread calls this before a feed's thread starts.

    Grain's import replaces Python's `__import__` for a moment, in all threads, so that modules load
    later (`etils.epy.lazy_imports`). What JAX imports at that moment, while the main thread traces,
    would be such a module, and fail.

    Raises:
      UserError: `workers` > 0, and this process may not start processes (see also
        `jssl.parallel.host.check_rerun`).
    """
    host.check_rerun()
    if workers and multiprocessing.current_process().daemon:
        raise ConfigError(
            "config.data.workers",
            workers,
            "this process is a daemon of multiprocessing, which may start no others",
            "set --config.data.workers=0, or start it with daemon=False",
        )
    if workers:
        import grain  # noqa: F401 - takes a second, and only workers need it


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process calls this"
    parent.join()
    os._exit(1)


def _next(elements: Any, count: int) -> Batch:
    """Joins the next `count` parts, from workers, to the batch of a step."""
    parts = list(itertools.islice(elements, count))
    # Copies even a single part: it is in a worker's shared memory, which is then free again at
    # once. Without the copy, JAX on a CPU would keep that memory as its own.
    return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
