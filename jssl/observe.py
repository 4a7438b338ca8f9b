"""What watches a run: progress, metrics.jsonl, TensorBoard, W&B, evaluation, pictures, profile.

An observer is called after every step with (step, state, metrics); metrics are device arrays that
may not exist yet. Only `Recorder` reads them, and it reads those of its *previous* visit, which are
long finished: the loop never waits for the step that is under way.
"""

import contextlib
import logging
import pathlib
import sys
import time

import jax
import rich.progress

from jssl import sinks as to
from jssl.config import UserError
from jssl.diagnose import SELDOM

log = logging.getLogger("jssl")


def fetch(metrics) -> dict[str, float]:
    """Device scalars as Python floats: the one place where the loop's metrics cross to the host.
    What was not due at this step is left out."""
    values = {key: float(value) for key, value in jax.device_get(metrics).items()}
    return {key: value for key, value in values.items() if key not in SELDOM or value == value}


class Recorder:
    """Writes metrics every `every` steps, and says how the run is going.

    `flops`: model FLOPs of one step; `peak`: FLOP/s of all devices, or None if unknown; `waited`
    gives the seconds that the loop has waited for data so far; `rates`: the learning rate of every
    step; `last`: the newest metrics of this run, from before it was stopped; `alarm` hears the
    metrics in every process, so that all stop together.
    """

    def __init__(
        self, workdir, *, start, steps, every, examples, flops, peak, waited, rates, last, alarm,
        **sinks,
    ):  # fmt: skip
        if every < 1:
            raise UserError(f"config.log.every={every} must be at least 1; try 20")
        self.every, self.steps = every, steps
        self.examples, self.flops, self.peak, self.waited = examples, flops, peak, waited
        self.lr, self.last, self.alarm = rates, last, alarm
        self.main = jax.process_index() == 0
        self.sinks = to.open_all(pathlib.Path(workdir), **sinks) if self.main else []
        self.progress = Progress(start, steps, self.main)
        self.pending = None
        self.mark = (time.perf_counter(), start, 0.0)
        self.windows = []

    def __call__(self, step, state, metrics):
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
        (step, metrics), self.pending = self.pending, None
        values = fetch(metrics)
        now, waited = time.perf_counter(), self.waited()
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
        for sink in self.sinks:
            sink(step, values)

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
        self.pending, self.mark = None, (time.perf_counter(), step, self.waited())

    def examples_per_s(self) -> float:
        """The mean over all windows but the first, which holds the compilation (unless alone)."""
        windows = self.windows[1:] or self.windows
        seconds = sum(seconds for _, seconds in windows)
        return self.examples * sum(steps for steps, _ in windows) / max(seconds, 1e-9)

    def close(self):
        """Writes what is pending. No alarm rings any more: the run ends for a reason of its own."""
        try:
            if self.pending:
                self._flush(alarm=False)
        finally:
            self.progress.close()
            for sink in self.sinks:
                sink.close()


class Progress:
    """A bar on a terminal, plain lines elsewhere; always on stderr."""

    def __init__(self, start, steps, shown):
        self.steps, self.bar = steps, None
        self.shown = shown
        if shown and sys.stderr.isatty():
            columns = ("[progress.description]{task.description}", rich.progress.BarColumn())
            columns += (rich.progress.MofNCompleteColumn(), "{task.fields[note]}")
            console = rich.console.Console(stderr=True)
            self.bar = rich.progress.Progress(*columns, console=console)
            self.task = self.bar.add_task("train", total=steps, completed=start, note="compiling")
            self.bar.start()

    def __call__(self, step, values, per_step):
        note = describe(values, (self.steps - step) * per_step)
        if self.bar:
            self.bar.update(self.task, completed=step, note=note)
        elif self.shown:
            print(f"step {step}/{self.steps}  {note}", file=sys.stderr, flush=True)

    def close(self):
        if self.bar:
            self.bar.stop()


def describe(values, seconds_left: float) -> str:
    """ "loss 4.12  1,234 examples/s  MFU 31%  data wait 0%  ETA 0:12:30" """
    used = (
        f"MFU {values['mfu']:.0%}"
        if "mfu" in values
        else f"{values['flops_per_s'] / 1e9:,.1f} GFLOP/s"
    )
    hours, rest = divmod(round(seconds_left), 3600)
    return (
        f"loss {values['loss']:.4f}  {values['examples_per_s']:,.0f} examples/s  {used}  "
        f"data wait {values['data_wait']:.0%}  ETA {hours}:{rest // 60:02}:{rest % 60:02}"
    )


def profiler(workdir, at: int, last: int, steps: int = 5):
    """An observer that traces `steps` steps from step `at` on, to the run's `last` step at most,
    into <workdir>/profile. A run that resumes at or after `at` traces nothing."""
    end, tracing = min(at + steps, last), False

    def observe(step, state, metrics):
        nonlocal tracing
        if step == at and at < end and not tracing:  # a rollback may come by again
            jax.profiler.start_trace(str(pathlib.Path(workdir) / "profile"))
            tracing = True
        if tracing and step == end:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            tracing = False
            log.info("profile of steps %d-%d in %s/profile", at, end, workdir)

    return observe
