"""The training loop: config -> data -> `method.train_step` -> observers, for any method."""

import contextlib
import hashlib
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from jssl import optim
from jssl.config import Config, UserError, call_with_section, durations, paths, plugins
from jssl.core import Metrics, Params, TrainState
from jssl.data.loader import Feed
from jssl.evals.online import OnlineProbes
from jssl.log import log_progress
from jssl.parallel import agreement, host
from jssl.parallel.mesh import replicated
from jssl.parallel.preemption import PREEMPTED, Stopped, stop_on_signal
from jssl.perf import flops, memory
from jssl.training import loggers, missing_keys, observers, rollback, summary, visualize
from jssl.training.alarms import CollapseAlarm, SpikeAlarm
from jssl.training.outbox import Outbox, Soft
from jssl.training.pace import Pace
from jssl.training.setup import (
    Run,
    check_batch,
    check_unused_keys,
    compile_step,
    model_flops,
    setup_run,
)
from jssl.workdir import claim
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")
Observer = Callable[[int, TrainState, Metrics], None]  # called after every step
StopFn = Callable[[int], str]  # stop(step): the reason to stop after this step, or ""


def train(
    tree: ml_collections.ConfigDict,
    folder: str | os.PathLike[str],
    *,
    extend: bool = False,
    changed_data: bool = False,
    recipe: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Trains a config to its last step; continues from the last checkpoint in the folder.

    Args:
      tree: a whole config.
      folder: the workdir of the run.
      extend: whether the run in the folder, finished or not, gets the steps of `tree`.
      changed_data: whether the run continues although its data set has changed since it began.
      recipe: name and text of the recipe, kept in config.json for the record (`config.record`).

    Returns:
      The result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1 and counts.

    Raises:
      UserError: wrong input.
      SystemExit: with code 75, after saving, if a signal requested a stop.
    """
    host.check_rerun()
    agreement.run_on_all_processes(lambda: missing_keys.check(tree))
    tree = paths.absolute(tree)
    flags = {"--extend": extend, "--changed-data": changed_data}
    agreement.check(lambda: claim.common(tree, **flags))
    run_dir = agreement.run_on_all_processes(lambda: claim.TrainingFolder(folder))
    tree = agreement.run_on_all_processes(lambda: run_dir.open(tree, extend))
    if done := run_dir.finished(tree):
        return done
    try:
        with stop_on_signal() as stop, run_dir.lock(), contextlib.ExitStack() as open_things:
            run_dir.check_shared()
            # Again: this run may have waited for another one.
            tree = agreement.run_on_all_processes(lambda: run_dir.open(tree, extend))
            if done := run_dir.finished(tree):
                return done
            info = agreement.run_on_all_processes(run_dir.known_info)
            run = setup_run(Config(tree), data_info=info)
            check_batch(run)
            run_dir.compose(
                durations.resolved(tree, run.data_info.num_examples),
                run.data_info,
                run.data.source.fingerprint,
                extend=extend,
                changed_data=changed_data,
                recipe=recipe,
            )
            with memory.explained(run):
                values = _train(run, run_dir, open_things.callback, stop)
            return run_dir.write_result(values)
    except Stopped as why:  # outside the loop: no step was done since the last checkpoint
        log.warning("%s: stopped outside the steps; start again to go on", why)
        sys.exit(PREEMPTED)


def _train(
    run: Run,
    run_dir: claim.TrainingFolder,
    at_exit: Callable[[Callable[[], Any]], Any],
    stop: StopFn,
) -> dict[str, Any]:
    """Opens the parts of a run, claims its folder, and runs the steps.

    ``at_exit(close)`` registers a function that closes an opened part.
    """
    config = run.config
    folder = run_dir.path
    checkpoints = run_dir.checkpoints(config.checkpoint, read_only=False)
    checkpoints.check_space(run.shapes)
    state = checkpoints.restore(run.shapes)
    state = run.init() if state is None else state
    start = int(state.step)
    reading = log_progress(f"reading {run.data.source.name}")
    open_feed = partial(Feed, run.data, config.seed, config.batch_size, run.mesh)
    run_dir.clear()
    passed = rollback.skipped_ranges(folder, config.steps)
    checkpoints.passed = rollback.check_passed(folder, passed, checkpoints.restored, start)
    feeds = [open_feed(start, reading, passed)]
    at_exit(lambda: [feed.close() for feed in feeds])
    recorder = make_recorder(run, feeds, folder, start, checkpoints)
    at_exit(recorder.close)
    probes = OnlineProbes(run, recorder, checkpoints.score)
    check_unused_keys(config)
    run_dir.claim()
    # The checkpoint comes before the probes: a failed evaluation cannot lose the step.
    callbacks = [
        recorder,
        saver(checkpoints, recorder, config.steps),
        probes,
        *optional_observers(run, recorder, folder),
    ]
    tell(summary.beginning(run, start, folder))
    probes.resume(start, state)

    def next_feed(state: TrainState, passed: list[list[int]]) -> None:
        feeds.append(open_feed(int(state.step), reading, passed))
        recorder.rewind(int(state.step))

    step = compile_step(run, feeds[0])
    recorder.begin()
    state = _run_steps(run, step, state, folder, feeds, next_feed, callbacks, checkpoints, stop)
    checkpoints.close()
    recorder.close(observers.PATIENCE)
    check_updates(state, config)
    values = outcome(state, recorder, probes, feeds)
    tell(summary.ending(run, folder, values))
    return values


def _run_steps(
    run: Run,
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    folder: pathlib.Path,
    feeds: Sequence[Feed],
    next_feed: Callable[[TrainState, list[list[int]]], None],
    callbacks: Sequence[Observer],
    checkpoints: Checkpoints,
    stop: StopFn,
) -> TrainState:
    """Runs all steps; after a rollback, ``next_feed(state, skipped_ranges)`` appends to `feeds`."""
    config = run.config
    count = len(run.data.source)
    while int(state.step) < config.steps:
        try:
            state = loop(
                step, state, feeds[-1], int(state.step), config.steps, callbacks, checkpoints, stop
            )
        except rollback.Diverged as diverged:
            feeds[-1].close()
            state, passed = rollback.roll_back(
                folder, config, checkpoints, run.shapes, diverged, count, config.alarm.max_rollbacks
            )
            next_feed(state, passed)
    return state


def tell(lines: Iterable[str]) -> None:
    """Logs lines, on the first process only."""
    for line in lines if jax.process_index() == 0 else ():
        log.info("%s", line)


def check_updates(state: TrainState, config: Config) -> None:
    """Raises `UserError` if every update was skipped: the weights are those of step 0."""
    if int(state.skipped[1]) >= int(state.step) > 0:
        raise UserError(
            f"none of the {int(state.step)} updates was finite: nothing was learned; try a lower "
            f"--config.optim.lr than {config.optim.lr:g} in another --workdir, and look at the data"
        )


def outcome(
    state: TrainState,
    recorder: observers.Recorder,
    probes: OnlineProbes,
    feeds: Sequence[Feed],
) -> dict[str, Any]:
    """Returns the result of a run at its last step, as JSON values.

    An unknown number is None; a note gives the reason.
    """
    step = int(state.step)
    has_loss = recorder.seen.get("loss") is not None
    scores = probes.found if probes.at == step else {}
    notes = {} if has_loss else {"loss_note": "not known: metrics.jsonl has no loss of this run"}
    if notes:
        log.warning("the loss of step %d is not known: metrics.jsonl was lost", step)
    return summary.as_json(
        {
            "step": step,
            "loss": recorder.last.get("loss"),
            **notes,
            "examples_per_s": round(recorder.examples_per_s(), 1),
            "params_sha256": params_sha256(state.params),
            "knn_top1": scores.get("knn_top1"),
            "linear_top1": scores.get("linear_top1"),
            "damaged_examples": len({i for feed in feeds for i in feed.damaged}),
            "skipped_updates": int(state.skipped[1]),
            "failed_evaluations": probes.failed,
            "dropped_metrics": recorder.dropped(),
        }
    )


def loop(
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    feed: Feed,
    start: int,
    steps: int,
    watchers: Sequence[Observer],
    saves: Checkpoints,
    stop: StopFn,
    ahead: int = 8,
) -> TrainState:
    """Runs the steps `start` + 1 to `steps`.

    `Pace` bounds the steps that are queued on the device. Without a bound the queued batches would
    fill its memory, and the reaction to a signal would come late.

    Args:
      step: the compiled step, (state, held, fed) -> (state, metrics).
      state: after step `start`.
      feed: the batches from step `start` on.
      start: the steps that are done.
      steps: the last step.
      watchers: observers.
      saves: the checkpoints of the run.
      stop: asked before the first step and after every step.
      ahead: the largest number of queued steps.

    Raises:
      SystemExit: with code 75, if a signal requested a stop, here or in any wait; the state of the
        last step that was begun is saved if all processes can finish it.
    """
    pace = Pace(ahead)
    done = start
    try:
        if why := stop(start):
            raise Stopped(why)
        while done < steps:
            fed = feed.next()
            state, metrics = step(state, feed.held, fed)
            done += 1
            for watch in watchers:
                watch(done, state, metrics)
            pace.add(metrics["loss"])
            if (why := stop(done)) and done < steps:
                raise Stopped(why)
    except Stopped as why:
        end_early(why, start, done, state, saves)
    return state


def end_early(
    why: Stopped, start: int, done: int, state: TrainState, checkpoints: Checkpoints
) -> NoReturn:
    """Saves the state of a run that stops after step `done`, if possible, and exits with 75."""
    if done == start:
        log.warning("%s: stopped before step %d; start again to go on", why, done + 1)
    elif why.agreed:
        checkpoints.save(done, state, None)
        checkpoints.close()
        log.warning("%s: saved after step %d; start again to go on", why, done)
    else:
        log.warning(
            "%s: stopped in step %d, which not all processes can finish; nothing was saved since "
            "step %s; start again to go on",
            why,
            done + 1,
            checkpoints.latest() or 0,
        )
    sys.exit(PREEMPTED)


def make_alarms(
    config: Config, folder: pathlib.Path, start: int, checkpoints: Checkpoints
) -> Callable[[int, dict[str, float]], None]:
    """Combines the alarms that ``config.alarm`` describes to one function (step, metrics)."""
    section = dict(config.alarm)
    section.pop("max_rollbacks")
    nonfinite = rollback.NonFinite(section.pop("max_consecutive_nonfinite"))
    spike = SpikeAlarm(factor=section.pop("loss_spike_factor"))
    collapse = call_with_section(
        CollapseAlarm, section, "alarm", workdir=folder, checkpoints=checkpoints.steps, start=start
    )

    def check(step: int, values: dict[str, float]) -> None:
        nonfinite(step, values)
        spike(step, values)
        collapse(step, values)

    return check


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
        rates=optim.lr_per_step(config),
        newest=loggers.newest(folder, start),
        alarm=make_alarms(config, folder, start, checkpoints),
        sinks=outboxes,
    )


def saver(checkpoints: Checkpoints, recorder: observers.Recorder, steps: int) -> Observer:
    """Returns an observer that saves every ``checkpoint.every`` steps and at the last step."""

    def observe(step: int, state: TrainState, metrics: Metrics) -> None:
        if step == steps or (checkpoints.every and step % checkpoints.every == 0):
            recorder.flush()
            checkpoints.save(step, state)

    return observe


def optional_observers(
    run: Run, recorder: observers.Recorder, folder: pathlib.Path
) -> list[Observer]:
    """Returns the observers that a config requests: pictures, a profile, those outside jssl.

    None of them can end the run. An observer outside jssl is ``build(run, folder)`` of its module,
    called after every step as ``observer(step, state, metrics)``, on all processes.
    """
    callbacks: list[Observer] = []
    log_section = run.config.log
    if run.method.render and log_section.render_every:
        album = None
        if jax.process_index() == 0:
            open_album = partial(visualize.Album, folder, run.data.source)
            album = recorder.closes(Outbox("pictures", open_album, limit=4))
        callbacks.append(
            Soft("a picture", visualize.renderer(run, album, log_section.render_every))
        )
    for name in log_section.observers:
        build = plugins.resolve("config.log.observers", name)
        callbacks.append(Soft(name, build(run, folder)))
    if log_section.profile_step:
        writer = recorder.closes(Outbox("the profile", observers.Traces))
        profile = observers.profiler(folder, writer, log_section.profile_step, run.config.steps)
        callbacks.append(Soft("the profile", profile))
    return callbacks


def params_sha256(params: Params) -> str:
    """Returns the SHA-256 of path, dtype, shape and bytes of all parameters, sorted by path."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ):
        value = np.asarray(jax.device_put(leaf, replicated(leaf.sharding.mesh)))
        digest.update(f"{path} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()
