"""A bounded queue with its own thread, between the loop and a sink.

A sink (a file, a tracker, a folder of pictures) may be slow, hang or fail. Behind an `Outbox` this
does not affect the loop: `post` never waits and never raises, records that do not fit are dropped
with one warning and a count, and `close` waits for a bounded time.
"""

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from jssl.data.files import one_line

log = logging.getLogger("jssl")
LIMIT = 1000  # the largest number of queued actions
FAILURES = 3  # consecutive failures after which a sink is switched off
RETRY = (0.5, 30.0)  # seconds between tries while the system cannot write: first, longest


class Outbox:
    """Runs actions on one sink, in the order of their posts, in its own thread.

    After an `OSError` (a full disk, a network that is down) it tries the action again until it
    works, the queue is full or the outbox is closed. After any other error it drops the record. A
    sink that cannot be opened, or that fails three times in a row, is switched off.

    Args:
      name: the name of the sink in warnings.
      open_sink: makes the sink, in the thread; the sink has a `close()`.
      limit: the largest number of queued actions.

    Attributes:
      dropped: the number of records that did not reach the sink.
    """

    def __init__(self, name: str, open_sink: Callable[[], Any], limit: int = LIMIT) -> None:
        self.name = name
        self.limit = limit
        self.dropped = 0
        self._open_sink = open_sink
        self._sink: Any = None
        self._waiting: collections.deque[tuple[Callable[[Any], None], int]] = collections.deque()
        self._changed = threading.Condition()
        self._posted = 0
        self._done = 0
        self._failures = 0
        self._on = True
        self._closing = False
        self._warned_full = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"outbox {name}")
        self._thread.start()

    def post(self, action: Callable[[Any], None], records: int = 1) -> bool:
        """Queues `action(sink)`. Returns False if it was dropped, which counts as `records`."""
        with self._changed:
            room = self._on and not self._closing and len(self._waiting) < self.limit
            if room:
                self._waiting.append((action, records))
                self._posted += 1
                self._changed.notify_all()
            else:
                self.dropped += records
            warn = not room and self._on and not self._closing and not self._warned_full
            self._warned_full |= warn
        if warn:
            log.warning(
                "%s: %d records wait and none gets through; more are dropped; training goes on",
                self.name,
                self.limit,
            )
        return room

    def flush(self, seconds: float) -> bool:
        """Waits, at most `seconds`, until all posted actions are done; returns whether they are.

        It does not wait for a sink that is failing at the moment.
        """
        until = time.monotonic() + seconds
        with self._changed:
            target = self._posted
            while self._done < target and self._on and not self._failures:
                if not self._changed.wait(max(until - time.monotonic(), 0)):
                    break
            return self._done >= target

    def close(self, seconds: float) -> None:
        """Tries each queued action once more and closes the sink.

        Actions that are not done after `seconds` are dropped.
        """
        with self._changed:
            first = not self._closing
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            if self._thread.is_alive():
                self.dropped += sum(records for _, records in self._waiting)
                self._waiting.clear()
                self._on = False
        if first and self._thread.is_alive():
            log.warning("%s: not done after %.0f s; left behind", self.name, seconds)
        if first and self.dropped:
            log.warning("%s: %d records were dropped", self.name, self.dropped)

    def _work(self) -> None:
        while (item := self._next()) is not None:
            self._deliver(*item)
            with self._changed:
                self._done += 1
                self._changed.notify_all()
        if self._sink is not None:
            try:
                self._sink.close()
            except BaseException as error:  # noqa: BLE001 - the thread ends here, the run does not
                self._warn("closing it failed", error)

    def _next(self) -> tuple[Callable[[Any], None], int] | None:
        """Waits for the next action and its records; returns None when all are done."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, action: Callable[[Any], None], records: int) -> None:
        pause = RETRY[0]
        while self._on:
            last = self._closing
            try:
                opening = self._sink is None
                if opening:
                    self._sink = self._open_sink()
                    opening = False
                action(self._sink)
                if self._failures:
                    log.info("%s: it works again", self.name)
                self._failures = 0
                return
            except OSError as error:
                self._failures += 1
                if self._failures == 1:
                    self._warn("it cannot be written and is tried again", error)
                if last:
                    break
                with self._changed:
                    self._changed.notify_all()
                    if not self._closing:
                        self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, RETRY[1])
            except BaseException as error:  # noqa: BLE001 - nothing may end the thread unsaid
                self._failures += 1
                off = opening or self._failures >= FAILURES
                if off or self._failures == 1:
                    self._warn("it is switched off" if off else "a record is dropped", error)
                if off:
                    self._switch_off()
                break
        with self._changed:
            self.dropped += records

    def _switch_off(self) -> None:
        with self._changed:
            self._on = False
            self.dropped += sum(records for _, records in self._waiting)
            self._done += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()

    def _warn(self, what: str, error: BaseException) -> None:
        why = f"{type(error).__name__}: {one_line(error)}"
        log.warning("%s: %s (%s); training goes on", self.name, what, why)


class Soft:
    """Wraps an observer so that it cannot end a run.

    An error becomes a warning. After three consecutive errors the observer is switched off.
    """

    def __init__(self, name: str, observer: Callable[..., None]) -> None:
        self.name = name
        self.observer = observer
        self.failures = 0

    def __call__(self, step: int, state: Any, metrics: Any) -> None:
        if self.failures >= FAILURES:
            return
        try:
            self.observer(step, state, metrics)
        except Exception as error:
            self.failures += 1
            off = " and switched off" if self.failures >= FAILURES else ""
            why = f"{type(error).__name__}: {one_line(error)}"
            log.warning("step %d: %s failed%s (%s); training goes on", step, self.name, off, why)
        else:
            self.failures = 0
