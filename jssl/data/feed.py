"""What carries batches to the devices, ahead of time and in the order that `order` lays down."""

import atexit
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from jssl import signals, surroundings
from jssl.config import UserError
from jssl.data import Data
from jssl.data.order import indices, lead
from jssl.data.stream import check_start, example_bytes, kill_workers, read_all, stream
from jssl.mesh import batch_parts, batch_sharding, check_batch, everywhere

_log = logging.getLogger("jssl")
FEW = 100  # examples, below which data.max_damaged is no measure
PATIENCE = 20.0  # seconds that a batch under way may take when the feed is closed


def quiet(done: int, total: int) -> None:
    """Shows no progress."""


class Feed:
    """The batches of steps `start`, `start` + 1, ... of a run that has `passed` over examples
    (`order.lead`), as global arrays on `mesh`.

    Arrays are split over the mesh axes "data" and "fsdp" along their leading axis; each process
    reads only the rows that its own devices hold. A step does

        fed = feed.next()                     # outside the jitted step
        batch = feed.batch(feed.held, fed)    # inside it, `held` and `fed` being arguments

    held     a pytree of replicated device arrays: all of the data set if resident, else {}
    waited   seconds that `next` has blocked in all
    damaged  {index: description} of the unreadable examples that this process has met

    `progress(done, total)` is called while a resident data set is read. Raises UserError if the
    batch cannot be split evenly, the data set does not fit, or too much of it is damaged.
    """

    def __init__(
        self,
        data: Data,
        seed: int,
        batch_size: int,
        mesh: Mesh,
        start: int,
        progress: Callable[[int, int], None] = quiet,
        passed=(),
    ):
        self.held, self.waited, self.damaged = {}, 0.0, {}
        self._stop = threading.Event()
        self._source, self._max_damaged = data.source, data.max_damaged
        check_batch("config.batch_size", batch_size, batch_parts(mesh), "devices")
        self._sharding = batch_sharding(mesh)
        self._batch_size, self._rows = batch_size, _local_rows(self._sharding, batch_size)
        if data.resident:
            self.held = self._hold(mesh, progress)
            host = self._places(seed, start, passed)
        else:
            check_start(data.workers)
            host = stream(
                data.source,
                seed=seed,
                batch_size=batch_size,
                rows=self._rows,
                start=start,
                workers=data.workers,
                passed=passed,
                closing=self._stop.is_set,
            )
        # One batch in the queue and one in the thread's hand: two wait on the device.
        self._ahead, self._error = queue.Queue(maxsize=1), None
        self._thread = threading.Thread(target=self._carry, args=(host,), daemon=True, name="feed")
        self._thread.start()
        atexit.register(self.close)

    def next(self):
        """What `batch` needs for the next step; blocks until it is there.

        Raises whatever the reading raised, UserError once `max_damaged` is exceeded, and
        `signals.Stopped` if a stop is asked for while no batch comes.
        """
        if self._error is None:
            began = time.perf_counter()
            fed, damaged, self._error = self._wait(began)
            self.waited += time.perf_counter() - began
        if self._error is not None:
            raise self._error
        self._note(damaged)
        return fed

    def _wait(self, began):
        while True:
            try:
                return self._ahead.get(timeout=signals.POLL)
            except queue.Empty:
                signals.check_wait(began)

    def batch(self, held, fed):
        """The batch {image, size, index, label} of a step; pure, to be called under jit."""
        if not held:
            return fed
        rows = fed["row"]
        return {key: x.at[rows].get(mode="promise_in_bounds") for key, x in held.items()}

    def close(self) -> None:
        """Ends the thread and the worker processes. The feed gives no batches afterwards.

        Workers that do not end by themselves are killed. A thread whose read never returns is left
        alone; the process can end without it.
        """
        atexit.unregister(self.close)
        self._stop.set()
        self._thread.join(timeout=1 if signals.requested() else PATIENCE)
        if self._thread.is_alive():
            kill_workers()
            self._thread.join(timeout=2)
        if self._thread.is_alive():
            surroundings.leave_in_time()
        self._error = self._error or RuntimeError("this feed is closed")
        self.held = {}  # its memory is free, for the feed after a rollback

    def _carry(self, host):
        try:
            for batch in host:
                damaged = batch.pop("damaged")
                if not self._offer((self._put(batch), damaged, None)):
                    return
        except BaseException as error:  # noqa: BLE001 - handed over, and raised by `next`
            self._offer((None, None, error))
        finally:
            host.close()

    def _offer(self, item):
        while not self._stop.is_set():
            try:
                self._ahead.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _put(self, batch):
        def local(where):
            first, last, _ = where[0].indices(self._batch_size)
            row = np.searchsorted(self._rows, first)
            return slice(row, row + last - first)

        def array(x):
            shape = (self._batch_size, *x.shape[1:])
            return jax.make_array_from_callback(shape, self._sharding, lambda at: x[local(at)])

        return jax.tree.map(array, batch)

    def _places(self, seed, start, passed):
        for step in itertools.count(start):
            step += lead(passed, step)
            rows = indices(seed, step, len(self._source), self._batch_size)[self._rows]
            yield {"row": rows.astype(np.int32), "damaged": np.empty(0, np.int32)}

    def _hold(self, mesh, progress):
        _check_room(self._source, mesh)
        whole = read_all(self._source, progress)
        self._note(whole.pop("damaged"))
        copies = everywhere(mesh)
        put = lambda x: jax.make_array_from_callback(x.shape, copies, lambda at: x[at])
        return jax.tree.map(put, whole)

    def _note(self, damaged):
        for index in np.unique(damaged[damaged >= 0]).tolist():
            if index not in self.damaged:
                self.damaged[index] = self._source.describe(index)
                _log.warning("unreadable, another one stands in: %s", self.damaged[index])
        share = len(self.damaged) / len(self._source)
        if share > allowed_share(self._max_damaged, len(self._source)):
            named = ", ".join(itertools.islice(self.damaged.values(), 3))
            raise UserError(
                f"data.max_damaged={self._max_damaged} is exceeded because {len(self.damaged)} of "
                f"{len(self._source)} examples ({share:.2%}) of {self._source.name} cannot be read "
                f"so far ({named}); mend or remove these, or allow more"
            )


def allowed_share(max_damaged: float, count: int) -> float:
    """The share of `count` examples that may be unreadable.

    A share says little of few: below `FEW` examples half may be unreadable, unless `max_damaged`
    is 0, which allows none.
    """
    return max(max_damaged, 0.5) if max_damaged and count < FEW else max_damaged


def _local_rows(sharding, batch_size):
    """The rows of the global batch that this process's devices hold: int64, ascending."""
    held = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[where] for where in held]))


def _check_room(source, mesh):
    needed = len(source) * (example_bytes(source) + 16)
    for device in mesh.local_devices:
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
        if needed > free:
            raise UserError(
                f"data.resident=True is wrong because {source.name} needs {needed / 2**30:.1f} GiB "
                f"and {device} has {free / 2**30:.1f} GiB free; set data.resident=False"
            )
