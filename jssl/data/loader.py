"""Carries batches to the devices, ahead of time and in the order of `jssl.data.sampling`."""

import atexit
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jssl.config import ConfigError
from jssl.data import DataConfig
from jssl.data.host_batches import kill_workers, prepare_start, read_all, stream
from jssl.data.sampling import data_offset, indices
from jssl.data.source import Batch, Source, example_bytes
from jssl.parallel import host, preemption
from jssl.parallel.mesh import batch_parts, batch_sharding, check_batch, replicated

_log = logging.getLogger("jssl")
FEW = 100  # examples; below this count data.max_corrupt_fraction is not meaningful
PATIENCE = 20.0  # seconds that a started batch may still take when the feed is closed


def quiet(done: int, total: int) -> None:
    """A `progress` that shows nothing."""


class Feed:
    """Iterates over the batches of a run, as global arrays on a mesh.

    Arrays are split over the mesh axes "data" and "fsdp" along their leading axis. Each process
    reads only the rows that its own devices hold. A step does

        fed = feed.next()                     # outside the jitted step
        batch = feed.batch(feed.held, fed)    # inside it, with `held` and `fed` as arguments

    Attributes:
      held: a tree of replicated device arrays: all of the data set if it is on the device, else {}.
      waited: seconds that `next` has blocked, in total.
      damaged: {index: description} of the unreadable examples that this process has met.
    """

    def __init__(
        self,
        data: DataConfig,
        seed: int,
        batch_size: int,
        mesh: Mesh,
        start: int,
        progress: Callable[[int, int], None] = quiet,
        passed: Iterable[Sequence[int]] = (),
    ):
        """Starts to read.

        Args:
          data: the source, and how to read it.
          seed: seed of the order of the examples.
          batch_size: examples of the global batch.
          mesh: the device mesh.
          start: the step of the first batch.
          progress: progress(done, total) is called while a data set is read onto the device.
          passed: the skipped ranges of the run (`jssl.data.sampling.data_offset`).

        Raises:
          UserError: the batch cannot be split evenly, the data set does not fit on the device, or
            too many examples are unreadable.
        """
        self.held: dict[str, jax.Array] = {}
        self.waited = 0.0
        self.damaged: dict[int, str] = {}
        self._stop = threading.Event()
        self._source = data.source
        self._max_damaged = data.max_corrupt_fraction
        check_batch("config.batch_size", batch_size, batch_parts(mesh), "devices")
        self._sharding = batch_sharding(mesh)
        self._batch_size = batch_size
        self._rows = _local_rows(self._sharding, batch_size)
        if data.on_device:
            self.held = self._hold(mesh, progress)
            batches = self._positions(seed, start, passed)
        else:
            prepare_start(data.workers)
            batches = stream(
                data.source,
                seed=seed,
                batch_size=batch_size,
                rows=self._rows,
                start=start,
                workers=data.workers,
                passed=passed,
                closing=self._stop.is_set,
            )
        # One batch is in the queue, and the thread holds another: two wait on the device.
        self._ahead: queue.Queue[tuple[Any, Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._carry, args=(batches,), daemon=True, name="feed"
        )
        self._thread.start()
        atexit.register(self.close)

    def next(self) -> dict[str, jax.Array]:
        """Returns the argument `fed` of `batch` for the next step; blocks until it is there.

        Raises:
          UserError: too many examples are unreadable.
          preemption.Stopped: a stop was requested while no batch is ready.
          BaseException: any error of the thread that reads.
        """
        if self._error is None:
            began = time.perf_counter()
            fed, damaged, self._error = self._wait(began)
            self.waited += time.perf_counter() - began
            if self._error is None:
                self._note(damaged)
                return fed
        raise self._error

    def _wait(self, began: float) -> tuple[Any, Any, BaseException | None]:
        """Waits for the next item of the queue: (batch, damaged, error)."""
        while True:
            try:
                return self._ahead.get(timeout=preemption.POLL)
            except queue.Empty:
                preemption.check_wait(began)

    def batch(
        self, held: Mapping[str, jax.Array], fed: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns the batch {image, size, index, label} of a step; pure, to be called under jit."""
        if not held:
            return fed
        rows = fed["row"]
        return {key: x.at[rows].get(mode="promise_in_bounds") for key, x in held.items()}

    def close(self) -> None:
        """Ends the thread and the worker processes. The feed gives no batches afterwards.

        Workers that do not end by themselves are killed. A thread whose read never returns keeps
        running; the process can end without it.
        """
        atexit.unregister(self.close)
        self._stop.set()
        self._thread.join(timeout=1 if preemption.requested() else PATIENCE)
        if self._thread.is_alive():
            kill_workers()
            self._thread.join(timeout=2)
        if self._thread.is_alive():
            host.leave_in_time()
        self._error = self._error or RuntimeError("this feed is closed")
        self.held = {}  # frees the memory for the next feed, after a rollback

    def _carry(self, batches: Generator[Batch]) -> None:
        """Puts all batches into the queue. Runs in the thread."""
        try:
            for batch in batches:
                damaged = batch.pop("damaged")
                if not self._offer((self._put(batch), damaged, None)):
                    return
        except BaseException as error:  # noqa: BLE001 - handed over, and raised by `next`
            self._offer((None, None, error))
        finally:
            batches.close()

    def _offer(self, item: tuple[Any, Any, BaseException | None]) -> bool:
        """Puts an item into the queue; returns False if the feed was closed instead."""
        while not self._stop.is_set():
            try:
                self._ahead.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _put(self, batch: Batch) -> dict[str, jax.Array]:
        """Makes global arrays of the local rows of a batch."""

        def local(index):
            first, last, _ = index[0].indices(self._batch_size)
            row = np.searchsorted(self._rows, first)
            return slice(row, row + last - first)

        def array(x):
            shape = (self._batch_size, *x.shape[1:])
            return jax.make_array_from_callback(
                shape, self._sharding, lambda index: x[local(index)]
            )

        return jax.tree.map(array, batch)

    def _positions(
        self, seed: int, start: int, passed: Iterable[Sequence[int]]
    ) -> Generator[Batch]:
        """Yields the indices of each step, for a data set on the device."""
        for step in itertools.count(start):
            step += data_offset(passed, step)
            rows = indices(seed, step, len(self._source), self._batch_size)[self._rows]
            yield {"row": rows.astype(np.int32), "damaged": np.empty(0, np.int32)}

    def _hold(self, mesh: Mesh, progress: Callable[[int, int], None]) -> dict[str, jax.Array]:
        """Reads the whole data set onto every device."""
        _check_room(self._source, mesh)
        whole = read_all(self._source, progress)
        self._note(whole.pop("damaged"))
        copies = replicated(mesh)

        def put(x):
            return jax.make_array_from_callback(x.shape, copies, lambda index: x[index])

        return jax.tree.map(put, whole)

    def _note(self, damaged: np.ndarray) -> None:
        """Records and logs unreadable examples; raises UserError if there are too many."""
        for index in np.unique(damaged[damaged >= 0]).tolist():
            if index not in self.damaged:
                self.damaged[index] = self._source.describe(index)
                _log.warning("unreadable, another one stands in: %s", self.damaged[index])
        share = len(self.damaged) / len(self._source)
        if share > allowed_share(self._max_damaged, len(self._source)):
            examples = ", ".join(itertools.islice(self.damaged.values(), 3))
            raise ConfigError(
                "config.data.max_corrupt_fraction",
                self._max_damaged,
                f"exceeded because {len(self.damaged)} of {len(self._source)} examples "
                f"({share:.2%}) of {self._source.name} cannot be read so far ({examples})",
                "repair or remove these, or allow more",
            )


def allowed_share(max_damaged: float, count: int) -> float:
    """Returns the fraction of `count` examples that may be unreadable.

    A fraction is not meaningful for few examples: below `FEW` examples half may be unreadable,
    unless `max_damaged` is 0, which allows none.

    Args:
      max_damaged: ``data.max_corrupt_fraction``.
      count: number of examples of the data set.
    """
    return max(max_damaged, 0.5) if max_damaged and count < FEW else max_damaged


def _local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch on this process's devices: int64, ascending."""
    by_device = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in by_device]))


def _check_room(source: Source, mesh: Mesh) -> None:
    """Raises UserError if the data set does not fit into the free memory of a device."""
    needed = len(source) * example_bytes(source)
    for device in mesh.local_devices:
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
        if needed > free:
            raise ConfigError(
                "config.data.on_device",
                True,
                f"{source.name} needs {needed / 2**30:.1f} GiB and {device} has "
                f"{free / 2**30:.1f} GiB free",
                "set it to False",
            )
