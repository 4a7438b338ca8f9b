"""The observers of a run: progress, metrics.jsonl, TensorBoard, trackers, pictures, a profile.

An observer is called after every step with (step, state, metrics). The metrics are device arrays,
which the device may still have to compute. Only `Recorder` reads them, and it reads those of its
*previous* visit, which are long finished: the loop never waits for the current step. No output for
people can end or delay a run: see `jssl.training.outbox`.
"""

import contextlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jssl.config import ConfigError
from jssl.core import Metrics, TrainState
from jssl.metrics import NOT_DUE, OCCASIONAL
from jssl.training.outbox import Outbox
from jssl.training.progress import Progress
from jssl.training.visualize import Rendered

log = logging.getLogger("jssl")
PATIENCE = 60.0  # seconds for the sinks at the end of a run, for uploads
HURRY = 3.0  # seconds for the sinks if the run ends for another reason


def fetch(metrics: Metrics) -> dict[str, float]:
    """Copies device scalars to Python floats; leaves out metrics that are not due at this step.

    Only this function copies the metrics of the loop to the host.
    """
    values = {key: float(value) for key, value in jax.device_get(metrics).items()}
    return {
        key: value for key, value in values.items() if key not in OCCASIONAL or value != NOT_DUE
    }


def peak_memory() -> dict[str, float]:
    """Returns {"peak_memory_gib": the most that a device of this process has used so far}.

    It is empty if the devices do not count their memory, as CPUs do not.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [device["peak_bytes_in_use"] for device in stats if "peak_bytes_in_use" in device]
    return {"peak_memory_gib": max(peaks) / 2**30} if peaks else {}


class Recorder:
    """Writes metrics every `every` steps and shows the progress of the run.

    Args:
      start: the step from which the run continues.
      steps: the last step.
      every: steps between two visits.
      examples: examples of one step.
      flops: model FLOPs of one step.
      peak: FLOP/s of all devices; None if unknown.
      waited: returns the seconds that the loop has waited for data so far.
      rates: {name: float [steps]}, the learning rates of every step; "lr" is one of them.
      newest: {name: (step, value)}, the last metrics from before the run was stopped.
      alarm: gets (step, metrics) in every process, so that all stop together.
      sinks: one `Outbox` per sink.

    Attributes:
      last: {name: newest value} of every metric.
      seen: {name: step of the newest value}.

    Raises:
      UserError: `every` is below 1.
    """

    def __init__(
        self,
        *,
        start: int,
        steps: int,
        every: int,
        examples: int,
        flops: float,
        peak: float | None,
        waited: Callable[[], float],
        rates: Mapping[str, np.ndarray],
        newest: Mapping[str, tuple[int, float]],
        alarm: Callable[[int, dict[str, float]], None],
        sinks: Sequence[Outbox],
    ) -> None:
        if every < 1:
            raise ConfigError("config.log.every", every, "must be at least 1", "try 20")
        self.every = every
        self.steps = steps
        self.examples = examples
        self.flops = flops
        self.peak = peak
        self.waited = waited
        self.rates = rates
        self.alarm = alarm
        self.last = {name: value for name, (_, value) in newest.items()}
        self.seen = {name: step for name, (step, _) in newest.items()}
        self.sinks = sinks
        self.boxes = list(sinks)  # every outbox that is closed at the end
        self.progress = Progress(start, steps, jax.process_index() == 0)
        self.pending: tuple[int, Metrics] | None = None
        # Time, steps that were finished then, seconds waited for data.
        self.mark = (time.perf_counter(), start, 0.0)
        self.windows: list[tuple[int, float]] = []  # (steps, seconds)

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self.progress.note(step, metrics["loss"])
        if step % self.every and step != self.steps:
            return
        if self.pending:
            self._flush()
        for value in metrics.values():
            value.copy_to_host_async()
        self.pending = (step, metrics)
        if step == self.steps:
            self._flush()

    def _flush(self, alarm: bool = True) -> None:
        """Fetches the metrics of the last visit and passes them to every sink."""
        assert self.pending is not None
        (step, metrics) = self.pending
        self.pending = None
        values = fetch(metrics)
        (before, done_before, waited_before) = self.mark
        (now, done, waited) = self.mark = self._now()
        seconds = max(now - before, 1e-9)
        per_step = seconds / max(done - done_before, 1)
        speed = {
            "examples_per_s": self.examples / per_step,
            "flops_per_s": self.flops / per_step,
            "step_seconds": per_step,
            "data_wait_fraction": (waited - waited_before) / seconds,
            **peak_memory(),
        }
        if self.peak:
            speed["mfu"] = speed["flops_per_s"] / self.peak
        self.windows.append((done - done_before, seconds))
        values = {**values, **speed, **self._rates(step)}
        self.write(step, values)
        self.progress(step, values, per_step)
        if alarm:
            self.alarm(step, values)

    def _now(self) -> tuple[float, int, float]:
        """The present `mark`. Steps that are queued on the device are not finished."""
        return time.perf_counter(), max(self.mark[1], self.progress.finished()), self.waited()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars to every sink; evaluations call this too."""
        self.last.update(values)
        self.seen.update(dict.fromkeys(values, step))
        for sink in self.sinks:
            sink.post(lambda sink: sink(step, values))

    def show(self, rendered: Rendered) -> None:
        """Passes pictures to every sink but metrics.jsonl, which comes first."""
        for sink in self.sinks[1:]:
            sink.post(lambda sink: sink.show(rendered.step, rendered.pictures))

    def end_early(self, step: int, metrics: Metrics) -> None:
        """Call if the run ends before its last step: records the metrics of `step`."""
        if self.seen.get("loss") != step:
            self.write(step, {**fetch(metrics), **self._rates(step)})

    def _rates(self, step: int) -> dict[str, float]:
        return {name: float(rates[step - 1]) for name, rates in self.rates.items()}

    def begin(self) -> None:
        """Call when the loop begins: the time before it does not count for the speed."""
        self.mark = (time.perf_counter(), self.mark[1], self.waited())
        self.progress.begin()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keeps the time inside, of an evaluation, out of the measured speed."""
        if self.pending:
            self._flush()
        yield
        self.mark = self._now()

    def rewind(self, step: int) -> None:
        """Call after a rollback to `step`: drops pending metrics of discarded steps."""
        self.pending = None
        self.mark = (time.perf_counter(), step, self.waited())
        self.progress.rewind(step)
        for sink in self.sinks:
            sink.post(lambda sink: sink.rewind(step), records=0)

    def closes(self, box: Outbox) -> Outbox:
        """Registers an `Outbox` that is closed at the end as well; returns it."""
        self.boxes.append(box)
        return box

    def examples_per_s(self) -> float:
        """Averages the speed over all windows but the first, which includes the compilation."""
        windows = self.windows[1:] or self.windows
        seconds = sum(seconds for _, seconds in windows)
        return self.examples * sum(steps for steps, _ in windows) / max(seconds, 1e-9)

    def end(self) -> None:
        """Call when the run is done: writes pending metrics and closes the sinks."""
        if self.pending:
            self._flush(alarm=False)
        for sink in self.sinks[1:]:
            sink.post(lambda sink: sink.end(), records=0)
        self.close(PATIENCE)

    def flush(self) -> None:
        """Gives the sinks up to a second to write their queues, before a checkpoint is written."""
        until = time.monotonic() + 1.0
        for sink in self.sinks[:1]:
            sink.flush(max(until - time.monotonic(), 0))

    def dropped(self) -> int:
        """Counts the records that did not reach their sink."""
        return sum(box.dropped for box in self.boxes)

    def close(self, seconds: float = HURRY) -> None:
        """Writes pending metrics and closes the sinks, which share `seconds` seconds.

        Alarms are disabled here because the run is already ending.
        """
        try:
            if self.pending:
                self._flush(alarm=False)
        finally:
            self.progress.close()
            until = time.monotonic() + seconds
            for box in self.boxes:
                box.close(max(until - time.monotonic(), 0))


class Traces:
    """Ends a trace of JAX's profiler and logs a message.

    It is a sink behind an `Outbox`, since the file may be large.
    """

    def __call__(self, message: str) -> None:
        jax.profiler.stop_trace()
        log.info("%s", message)

    def close(self) -> None:
        """Does nothing: an unfinished trace is lost."""


def profiler(
    workdir: str | os.PathLike[str], writer: Outbox, at: int, last: int, steps: int = 5
) -> Callable[[int, TrainState, Metrics], None]:
    """Returns an observer that traces some steps into <workdir>/profile.

    A run that resumes at or after `at` traces nothing.

    Args:
      workdir: the folder of the run.
      writer: an `Outbox` of `Traces`, which writes the trace.
      at: the step after which the trace begins.
      last: the last step of the run.
      steps: the number of traced steps, at most.
    """
    end = min(at + steps, last)
    tracing = False

    def observe(step: int, state: TrainState, metrics: Metrics) -> None:
        nonlocal tracing
        if step == at and at < end and not tracing:  # a rollback may repeat this step
            jax.profiler.start_trace(str(pathlib.Path(workdir) / "profile"))
            tracing = True
        if tracing and step == end:
            tracing = False
            jax.block_until_ready(metrics)
            message = f"profile of steps {at}-{end} in {workdir}/profile"
            writer.post(lambda traces: traces(message))

    return observe
