"""The training loop: config -> data -> `method.train_step` -> observers, for any method."""

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import ml_collections

from jssl.config import Config, durations, paths
from jssl.core import Metrics, TrainState
from jssl.data.loader import Feed
from jssl.evals.online import OnlineProbes
from jssl.interop.teacher import described
from jssl.log import log_progress
from jssl.parallel import agreement, host
from jssl.parallel.preemption import PREEMPTED, Stopped, stop_on_signal
from jssl.perf import memory
from jssl.training import early_stop, missing_keys, rollback, summary
from jssl.training.compared import check_compared
from jssl.training.final_export import write_export
from jssl.training.pace import Pace
from jssl.training.result import check_updates, ending_facts, outcome
from jssl.training.run_observers import Observer, make_recorder, optional_observers, saver
from jssl.training.setup import (
    Run,
    check_batch,
    check_unused_keys,
    compile_step,
    setup_run,
)
from jssl.workdir import claim
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")
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
      The result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1, the best
      checkpoint, and counts; see `outcome` and `ending_facts` of `jssl.training.result`.

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
    tree = agreement.run_on_all_processes(lambda: run_dir.open(with_teacher(tree, run_dir), extend))
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
            check_compared(run)
            run_dir.compose(
                durations.resolved(tree, run.data_info.num_examples),
                run.data_info,
                run.data.source.fingerprint,
                extend=extend,
                changed_data=changed_data,
                recipe=recipe,
                embeds=run.method.embeds,
            )
            with memory.explained(run):
                values = _train(run, run_dir, open_things.callback, stop)
            return run_dir.write_result(values)
    except Stopped as why:  # outside the loop: no step was done since the last checkpoint
        log.warning("%s: stopped outside the steps; start again to go on", why)
        sys.exit(PREEMPTED)


def with_teacher(
    tree: ml_collections.ConfigDict, run_dir: claim.TrainingFolder
) -> ml_collections.ConfigDict:
    """The config with all about its frozen teacher; a run that goes on has it in config.json."""
    return described(tree, run_dir.recorded_config() if run_dir.claimed else None)


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
    stop_early = early_stop.EarlyStop(checkpoints, config.eval.patience, run_dir.extended_at)
    probes = OnlineProbes(run, recorder, checkpoints.score, stop_early)
    early_stop.check(config, probes.pair is not None)
    check_unused_keys(config)
    run_dir.claim()
    # The checkpoint comes before the probes: a failed evaluation cannot lose the step.
    callbacks = [
        recorder,
        saver(checkpoints, recorder, config.steps),
        probes,
        *optional_observers(run, recorder, folder, lambda: bool(probes.ended)),
    ]
    tell(summary.beginning(run, start, folder))
    probes.resume(start, state)

    def next_feed(state: TrainState, passed: list[list[int]]) -> None:
        feeds.append(open_feed(int(state.step), reading, passed))
        recorder.rewind(int(state.step))

    step = compile_step(run, feeds[0])
    recorder.begin()
    state = _run_steps(
        run, step, state, folder, feeds, next_feed, callbacks, checkpoints, stop, probes
    )
    if probes.ended and checkpoints.latest() != int(state.step):
        checkpoints.save(int(state.step), state)
    checkpoints.close()
    check_updates(state, config)
    recorder.end()
    values = outcome(state, recorder, probes, feeds) | ending_facts(
        folder, int(state.step), checkpoints, probes
    )
    values["export"] = write_export(run, run_dir, state, values)
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
    probes: OnlineProbes,
) -> TrainState:
    """Runs all steps, or until the probes end the run early.

    After a rollback, ``next_feed(state, skipped_ranges)`` appends to `feeds`.
    """
    config = run.config
    count = len(run.data.source)
    while int(state.step) < config.steps and not probes.ended:
        try:
            state = loop(
                step,
                state,
                feeds[-1],
                int(state.step),
                config.steps,
                callbacks,
                checkpoints,
                stop,
                ended=lambda: bool(probes.ended),
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
    ended: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Runs the steps `start` + 1 to `steps`, or fewer if the run ends early.

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
      ended: asked after every step: whether the run ends early, as finished.

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
            if ended():
                return state
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
