"""Shows the progress of a run on stderr: a bar on a terminal, plain lines elsewhere.

There is a line after the first step, one at every visit of the recorder, and one after ten seconds
without a line. A thread shows the latter. It reads only finished results of the devices, so it
never waits for a step and never makes the loop wait. Output that cannot be written is dropped.
"""

import collections
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import rich.console
import rich.progress
from rich.table import Column

EVERY = 10.0  # seconds without a line, after which one is shown
STILL = 60.0  # seconds without a finished step, after which a line reports it
RECENT = 32  # steps whose loss is stored; more than are ever queued


class Progress:
    """Shows the progress of steps `start` + 1 to `steps`.

    Args:
      start: the steps that are done.
      steps: the last step.
      shown: False: shows nothing.
      console: a terminal; None: stderr, if it is a terminal.
    """

    def __init__(
        self, start: int, steps: int, shown: bool, console: rich.console.Console | None = None
    ) -> None:
        self.steps = steps
        self.shown = shown
        self.bar: rich.progress.Progress | None = None
        # (step, loss on the device); jax.Array does not declare `is_ready`.
        self._recent: collections.deque[tuple[int, Any]] = collections.deque(maxlen=RECENT)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._begun = self._moved = self._last = time.monotonic()
        self._at = (start, self._begun)  # step and time of the last line
        self._start = start
        # Of the first step: its number, its loss, the seconds to compile, the time of its start.
        self._first: tuple[int, Any, float, float] | None = None
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._thread: threading.Thread | None = None
        if shown:
            terminal = console or (_isatty() and rich.console.Console(stderr=True))
            if terminal:
                self._open_bar(terminal)
            self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")
            self._thread.start()

    def __call__(self, step: int, values: dict[str, float], per_step: float) -> None:
        """Shows the metrics of a visit; `per_step`: seconds per step."""
        left = (self.steps - step) * per_step
        self._show(step, describe(values, left), brief(values, left))

    def note(self, step: int, loss: jax.Array) -> None:
        """Call after every step that was begun, with its loss on the device."""
        self._recent.append((step, loss))
        if step == self._start + 1:
            now = time.monotonic()
            self._first = (step, loss, now - self._begun, now)

    def finished(self) -> int:
        """Returns the newest step that is finished on the device; it does not wait."""
        done = (step for step, loss in list(self._recent) if loss.is_ready())
        return max(done, default=self._start)

    def begin(self) -> None:
        """Call before the first step is compiled."""
        self._begun = self._moved = time.monotonic()
        self._at = (self._start, self._begun)

    def rewind(self, step: int) -> None:
        """Call when the run continues from an earlier step."""
        self._recent.clear()
        self._at = (step, time.monotonic())

    def close(self) -> None:
        """Ends the thread and the bar."""
        self._over.set()
        with self._lock, contextlib.suppress(Exception):
            if self.bar:
                self.bar.stop()
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []

    def _watch(self) -> None:
        while not self._over.wait(0.01 if self._first else 0.25):
            now = time.monotonic()
            try:
                if self._first:
                    self._whole(now)
                elif now - self._last >= EVERY:
                    self._by_time(now)
            except Exception:  # noqa: BLE001 - a step failed; the loop raises its error
                return

    def _whole(self, now: float) -> None:
        """Shows, once the first step is finished, the estimated time of the whole run."""
        assert self._first is not None
        step, loss, compile_seconds, began = self._first
        if not loss.is_ready():
            return self._still(now)
        self._first = None
        done = max(sum(value.is_ready() for _, value in list(self._recent)), 1)
        per_step = (now - began) / done
        text = f"loss {float(loss):.4f}  compiled in {compile_seconds:,.1f} s"
        if self.steps > step:
            whole = compile_seconds + per_step * (self.steps - step + 1)
            text += f"; about {per_step:.2g} s a step, {clock(whole)} in all"
        self._show(step, text, text)

    def _by_time(self, now: float) -> None:
        done = [entry for entry in list(self._recent) if entry[1].is_ready()]
        at, since = self._at
        if done and done[-1][0] > at:
            step, loss = done[-1]
            per_step = (now - since) / (step - at)
            self._moved = now
            text = f"loss {float(loss):.4f}  {per_step:.2g} s a step"
            text += f"  ETA {clock((self.steps - step) * per_step)}"
            self._show(step, text, text)
        else:
            self._still(now)

    def _still(self, now: float) -> None:
        if now - self._moved >= STILL:
            at, since = self._at
            self._moved = now
            activity = f"step {at + 1}/{self.steps} is under way" if self._recent else "compiling"
            self._print(f"{activity}, {clock(now - since)} so far")

    def _show(self, step: int, line: str, note: str) -> None:
        now = time.monotonic()
        self._last = self._moved = now
        self._at = max(self._at, (step, now))
        if self.bar:
            with self._lock, contextlib.suppress(Exception):
                count = f"{step}/{self.steps}"
                self.bar.update(self.task, completed=step, count=count, note=note)
        else:
            self._print(f"step {step}/{self.steps}  {line}")

    def _print(self, line: str) -> None:
        if self.bar:
            with self._lock, contextlib.suppress(Exception):
                self.bar.update(self.task, note=line)
        elif self.shown:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(line, file=sys.stderr, flush=True)

    def _open_bar(self, console: rich.console.Console) -> None:
        """Opens a bar. The count is first and never cut off; a long note is cut off."""
        width = 2 * len(str(self.steps)) + 1
        columns = (
            rich.progress.TextColumn(
                "{task.fields[count]}", table_column=Column(no_wrap=True, min_width=width)
            ),
            rich.progress.BarColumn(bar_width=12, table_column=Column(no_wrap=True)),
            rich.progress.TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
        )
        self.bar = rich.progress.Progress(*columns, console=console, expand=True)
        count = f"{self._start}/{self.steps}"
        self.task = self.bar.add_task(
            "train", total=self.steps, completed=self._start, count=count, note="compiling"
        )
        before = sys.stderr
        with contextlib.suppress(Exception):
            self.bar.start()
        # While the bar is shown, sys.stderr prints above it. Older handlers have to do the same.
        for handler in list(_stream_handlers()):
            if handler.stream is before and sys.stderr is not before:
                self._streams.append((handler, handler.setStream(sys.stderr)))


def _stream_handlers() -> Iterator[logging.StreamHandler]:
    for logger in (logging.getLogger(), logging.getLogger("jssl")):
        yield from (
            handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)
        )


def _isatty() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def describe(values: Mapping[str, float], seconds_left: float) -> str:
    """Formats a visit: "loss 4.12  1,234 examples/s  MFU 31%  data wait 0%  ETA 0:12:30"."""
    return (
        f"loss {values['loss']:.4f}  {values['examples_per_s']:,.0f} examples/s  {used(values)}  "
        f"data wait {values['data_wait_fraction']:.0%}  ETA {clock(seconds_left)}"
    )


def brief(values: Mapping[str, float], seconds_left: float) -> str:
    """As `describe`, for a bar, which cuts the end off: the most important values are first."""
    return (
        f"loss {values['loss']:.4f}  ETA {clock(seconds_left)}  "
        f"{values['examples_per_s']:,.0f} ex/s  {used(values)}  "
        f"wait {values['data_wait_fraction']:.0%}"
    )


def used(values: Mapping[str, float]) -> str:
    """Formats the utilization, "MFU 31%", or the rate on devices with an unknown peak."""
    if "mfu" in values:
        return f"MFU {values['mfu']:.0%}"
    return f"{values['flops_per_s'] / 1e9:,.1f} GFLOP/s"


def clock(seconds: float) -> str:
    """Formats a duration as "1:02:05"."""
    hours, remainder = divmod(round(seconds), 3600)
    return f"{hours}:{remainder // 60:02}:{remainder % 60:02}"
