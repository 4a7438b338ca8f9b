"""What watches a run: progress, metrics.jsonl, TensorBoard, trackers, pictures, a profile.

An observer is called after every step with (step, state, metrics); metrics are device arrays that
may not exist yet. Only `Recorder` reads them, and it reads those of its *previous* visit, which are
long finished: the loop never waits for the step that is under way. Nothing that is written for
somebody to look at can end or delay a run: see `jssl.training.outbox`.
"""

import contextlib
import logging
import pathlib
import time

import jax

from jssl.config import UserError
from jssl.metrics import NOT_DUE, SELDOM
from jssl.training.progress import Progress

log = logging.getLogger("jssl")
PATIENCE = 60.0  # seconds that sinks have at the end of a run, for uploads
HURRY = 3.0  # seconds that they have when it ends for another reason


def fetch(metrics) -> dict[str, float]:
    """Device scalars as Python floats: the one place where the loop's metrics cross to the host.
    What was not due at this step is left out."""
    values = {key: float(value) for key, value in jax.device_get(metrics).items()}
    return {key: value for key, value in values.items() if key not in SELDOM or value != NOT_DUE}


class Recorder:
    """Writes metrics every `every` steps, and says how the run is going.

    `flops`: model FLOPs of one step; `peak`: FLOP/s of all devices, or None if unknown; `waited`
    gives the seconds that the loop has waited for data so far; `rates`: the learning rate of every
    step; `newest`: {name: (step, value)} of this run, from before it was stopped; `alarm` hears the
    metrics in every process, so that all stop together; `sinks`: an `Outbox` each.
    """

    def __init__(
        self,
        *,
        start,
        steps,
        every,
        examples,
        flops,
        peak,
        waited,
        rates,
        newest,
        alarm,
        sinks,
    ):
        if every < 1:
            raise UserError(f"config.log.every={every} must be at least 1; try 20")
        self.every = every
        self.steps = steps
        self.examples = examples
        self.flops = flops
        self.peak = peak
        self.waited = waited
        self.lr = rates
        self.alarm = alarm
        self.last = {name: value for name, (_, value) in newest.items()}
        self.seen = {name: step for name, (step, _) in newest.items()}
        self.sinks = sinks
        self.boxes = list(sinks)  # all that is closed at the end
        self.progress = Progress(start, steps, jax.process_index() == 0)
        self.pending = None
        self.mark = (time.perf_counter(), start, 0.0)
        self.windows = []

    def __call__(self, step, state, metrics):
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

    def _flush(self, alarm=True):
        """Fetches the metrics of the last visit and hands them to every sink."""
        (step, metrics) = self.pending
        self.pending = None
        values = fetch(metrics)
        now = time.perf_counter()
        waited = self.waited()
        (before, done, waited_before) = self.mark
        self.mark = (now, step, waited)
        seconds = max(now - before, 1e-9)
        per_step = seconds / max(step - done, 1)
        speed = {
            "examples_per_s": self.examples / per_step,
            "flops_per_s": self.flops / per_step,
            "data_wait": (waited - waited_before) / seconds,
        }
        if self.peak:
            speed["mfu"] = speed["flops_per_s"] / self.peak
        self.windows.append((step - done, seconds))
        values = {**values, **speed, "lr": float(self.lr[step - 1])}
        self.write(step, values)
        self.progress(step, values, per_step)
        if alarm:
            self.alarm(step, values)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Scalars to every sink; evaluations call this too."""
        self.last.update(values)
        self.seen.update(dict.fromkeys(values, step))
        for sink in self.sinks:
            sink.post(lambda sink: sink(step, values))

    def begin(self) -> None:
        """The loop begins: what came before is no part of the measured speed."""
        self.mark = (time.perf_counter(), self.mark[1], self.waited())
        self.progress.begin()

    @contextlib.contextmanager
    def aside(self):
        """Keeps what happens inside (an evaluation) out of the measured speed."""
        if self.pending:
            self._flush()
        yield
        self.mark = (time.perf_counter(), self.mark[1], self.waited())

    def rewind(self, step: int) -> None:
        """The run goes on from an earlier step; what was not fetched yet is of steps that are no
        more."""
        self.pending = None
        self.mark = (time.perf_counter(), step, self.waited())
        self.progress.rewind(step)
        for sink in self.sinks:
            sink.post(lambda sink: sink.rewind(step), records=0)

    def closes(self, box):
        """Closes this `Outbox` at the end as well; gives it back."""
        self.boxes.append(box)
        return box

    def examples_per_s(self) -> float:
        """The mean over all windows but the first, which holds the compilation (unless alone)."""
        windows = self.windows[1:] or self.windows
        seconds = sum(seconds for _, seconds in windows)
        return self.examples * sum(steps for steps, _ in windows) / max(seconds, 1e-9)

    def flush(self) -> None:
        """Gives sinks a moment to write what they have; a checkpoint is about to be written."""
        until = time.monotonic() + 1.0
        for sink in self.sinks[:1]:
            sink.flush(max(until - time.monotonic(), 0))

    def dropped(self) -> int:
        """Records that did not reach their sink."""
        return sum(box.dropped for box in self.boxes)

    def close(self, seconds: float = HURRY):
        """Writes what is pending. No alarm rings any more: the run ends for a reason of its own.
        Sinks have so many seconds, all of them together."""
        try:
            if self.pending:
                self._flush(alarm=False)
        finally:
            self.progress.close()
            until = time.monotonic() + seconds
            for box in self.boxes:
                box.close(max(until - time.monotonic(), 0))


class Traces:
    """Ends a trace of JAX's profiler; a sink behind an `Outbox`, since the file may be large."""

    def __call__(self, said: str) -> None:
        jax.profiler.stop_trace()
        log.info("%s", said)

    def close(self) -> None:
        """A trace that was not ended is lost."""


def profiler(workdir, writer, at: int, last: int, steps: int = 5):
    """An observer that traces `steps` steps from step `at` on, to the run's `last` step at most,
    into <workdir>/profile, which `writer`, an `Outbox` of `Traces`, writes. A run that resumes at
    or after `at` traces nothing."""
    end = min(at + steps, last)
    tracing = False

    def observe(step, state, metrics):
        nonlocal tracing
        if step == at and at < end and not tracing:  # a rollback may come by again
            jax.profiler.start_trace(str(pathlib.Path(workdir) / "profile"))
            tracing = True
        if tracing and step == end:
            tracing = False
            jax.block_until_ready(metrics)
            said = f"profile of steps {at}-{end} in {workdir}/profile"
            writer.post(lambda traces: traces(said))

    return observe
