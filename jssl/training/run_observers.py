"""The observers of a run, from its config."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from jssl import optim
from jssl.config import Config, call_with_section, plugins
from jssl.core import Metrics, TrainState
from jssl.data.loader import Feed
from jssl.optim.schedules import lr_per_step
from jssl.perf import flops
from jssl.training import loggers, observers, rollback, summary, visualize
from jssl.training.alarms import CollapseAlarm, SpikeAlarm
from jssl.training.data_wait import DataWaitAlarm
from jssl.training.outbox import Outbox, Soft
from jssl.training.setup import Run, model_flops
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")
Observer = Callable[[int, TrainState, Metrics], None]  # called after every step


def make_recorder(
    run: Run, feeds: Sequence[Feed], folder: pathlib.Path, start: int, checkpoints: Checkpoints
) -> observers.Recorder:
    """Opens the recorder of a run; only the first process opens sinks."""
    config = run.config
    device = run.mesh.devices.flat[0]
    peak = flops.peak(device.device_kind)
    if peak is None:
        log.info("no peak rate is known for %r: FLOP/s, no MFU", device.device_kind)
    outboxes: list[Outbox] = []
    if jax.process_index() == 0:
        log_section = config.log
        outboxes = loggers.open_all(
            folder,
            start=start,
            config=config._tree.to_dict(),
            tensorboard=log_section.tensorboard,
            wandb=log_section.wandb,
            mlflow=log_section.mlflow,
        )
    return observers.Recorder(
        start=start,
        steps=config.steps,
        every=config.log.every,
        examples=config.batch_size,
        flops=model_flops(run),
        waited=lambda: feeds[-1].waited,
        peak=None if peak is None else peak * run.mesh.devices.size,
        rates=learning_rates(config),
        newest=loggers.newest(folder, start),
        alarm=make_alarms(run, folder, start, checkpoints),
        sinks=outboxes,
    )


def learning_rates(config: Config) -> dict[str, np.ndarray]:
    """{"lr": float32 [steps]}; "d_lr" is that of a discriminator with its own section."""
    rates = {"lr": lr_per_step(config)}
    if optim.DISCRIMINATOR in config:
        rates["d_lr"] = lr_per_step(optim.for_discriminator(config))
    return rates


def make_alarms(
    run: Run, folder: pathlib.Path, start: int, checkpoints: Checkpoints
) -> Callable[[int, dict[str, float]], None]:
    """Combines the alarms of ``config.alarm`` and of the wait for data to one function.

    It is called as ``check(step, metrics)``.
    """
    section = dict(run.config.alarm)
    section.pop("max_rollbacks")
    nonfinite = rollback.NonFinite(section.pop("max_consecutive_nonfinite"))
    spike = SpikeAlarm(factor=section.pop("loss_spike_factor"))
    collapse = call_with_section(
        CollapseAlarm, section, "alarm", workdir=folder, checkpoints=checkpoints.steps, start=start
    )
    device = run.mesh.local_devices[0]
    data_wait = DataWaitAlarm(run.data, lambda: summary.free(device))

    def check(step: int, values: dict[str, float]) -> None:
        nonfinite(step, values)
        spike(step, values)
        collapse(step, values)
        data_wait(step, values)

    return check


def saver(checkpoints: Checkpoints, recorder: observers.Recorder, steps: int) -> Observer:
    """Returns an observer that saves every ``checkpoint.every`` steps and at the last step."""

    def observe(step: int, state: TrainState, metrics: Metrics) -> None:
        if step == steps or (checkpoints.every and step % checkpoints.every == 0):
            recorder.flush()
            checkpoints.save(step, state)

    return observe


def shower(
    run: Run, recorder: observers.Recorder, folder: pathlib.Path
) -> Callable[[visualize.Rendered], None]:
    """Returns a function that passes pictures to the album of the workdir and to all sinks.

    Only the first process has these; on the others the function does nothing.
    """
    if jax.process_index() != 0:
        return lambda rendered: None
    open_album = partial(visualize.Album, folder, run.data.source)
    album = recorder.closes(Outbox("pictures", open_album, limit=4))

    def show(rendered: visualize.Rendered) -> None:
        album.post(lambda album: album(rendered))
        recorder.show(rendered)

    return show


def optional_observers(
    run: Run,
    recorder: observers.Recorder,
    folder: pathlib.Path,
    ended: Callable[[], bool] = lambda: False,
) -> list[Observer]:
    """Returns the observers that a config requests: pictures, a profile, those outside jssl.

    None of them can end the run. An observer outside jssl is ``build(run, folder)`` of its module,
    called after every step as ``observer(step, state, metrics)``, on all processes. ``ended()`` is
    whether the run ends early at the present step.
    """
    callbacks: list[Observer] = []
    log_section = run.config.log
    if run.method.render and log_section.render_every:
        show = shower(run, recorder, folder)
        every = log_section.render_every
        callbacks.append(Soft("a picture", visualize.renderer(run, every, show, ended)))
    for name in log_section.observers:
        build = plugins.resolve("config.log.observers", name)
        callbacks.append(Soft(name, build(run, folder)))
    if log_section.profile_step:
        writer = recorder.closes(Outbox("the profile", observers.Traces))
        profile = observers.profiler(folder, writer, log_section.profile_step, run.config.steps)
        callbacks.append(Soft("the profile", profile))
    return callbacks
