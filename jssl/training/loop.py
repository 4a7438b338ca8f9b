"""The loop: config -> data -> `method.train_step` -> observers. It knows no method."""

import contextlib
import hashlib
import logging
import sys
from functools import partial
from typing import NoReturn

import jax
import numpy as np

from jssl import optim
from jssl.config import Config, UserError, call_with_section, durations, paths
from jssl.data.loader import Feed
from jssl.evals.online import OnlineProbes
from jssl.log import log_progress
from jssl.parallel import agreement, host
from jssl.parallel.preemption import PREEMPTED, Stopped, stop_on_signal
from jssl.perf import flops, memory
from jssl.training import loggers, observers, rollback, summary, visualize
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
from jssl.workdir import claim, identity, lock, run_folder
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")


def train(tree, folder: str, *, extend: bool = False, changed_data: bool = False) -> dict:
    """Trains the config `tree` in the folder to its last step; goes on from its last checkpoint.

    extend        the run in the folder, finished or not, gets the steps of `tree`
    changed_data  it goes on although its data set has changed since it began

    Returns the result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1. Raises
    `UserError` for wrong input, SystemExit(75) if a signal asked it to stop (after saving).
    """
    host.check_rerun()
    tree = paths.absolute(tree)
    flags = {"--extend": extend, "--changed-data": changed_data}
    agreement.check(lambda: claim.common(tree, **flags))
    folder, tree = agreement.run_on_all_processes(
        partial(run_folder.open_run_folder, folder, tree, extend)
    )
    if done := finished(folder, tree):
        return done
    try:
        with (
            stop_on_signal() as stop,
            lock.exclusive_lock(folder),
            contextlib.ExitStack() as open_things,
        ):
            claim.check_shared(folder)
            # Again: this run may have waited for another one.
            _, tree = agreement.run_on_all_processes(
                partial(run_folder.open_run_folder, folder, tree, extend)
            )
            if done := finished(folder, tree):
                return done
            known = agreement.run_on_all_processes(lambda: run_folder.known_info(folder))
            run = setup_run(Config(tree), data_info=known)
            check_batch(run)
            stored = claim.content(
                folder,
                durations.resolved(tree, run.data_info.num_examples),
                run.data_info,
                run.data.source.fingerprint,
                extend=extend,
                changed_data=changed_data,
            )
            with memory.explained(run):
                values = _train(run, stored, folder, open_things.callback, stop)
            return run_folder.write_result(folder, values, identity.mark_of(stored))
    except Stopped as why:  # outside the loop: no step was done since the last checkpoint
        log.warning("%s: stopped outside the steps; start again to go on", why)
        sys.exit(PREEMPTED)


def finished(folder, tree) -> dict | None:
    """The result of the folder's run, if it is done. `UserError` if `tree` names other data."""
    done = agreement.first(lambda: run_folder.result(folder, tree.steps))
    if done is not None:
        claim.check_data(folder, tree)
    return done


def _train(run: Run, stored, folder, at_exit, stop) -> dict:
    """Opens what a run needs, and runs it; `at_exit(close)` is called for each thing opened. The
    folder is claimed by `stored` once all of it is open."""
    config = run.config
    given = {"workdir": folder, "read_only": False, "mark": identity.mark_of(stored)}
    saves = call_with_section(Checkpoints, config.checkpoint, "checkpoint", **given)
    saves.check_space(run.shapes)
    state = saves.restore(run.shapes)
    state = run.init() if state is None else state
    start = int(state.step)
    reading = log_progress(f"reading {run.data.source.name}")
    feed = partial(Feed, run.data, config.seed, config.batch_size, run.mesh)
    claim.clear(folder, stored)
    passed = rollback.skipped_ranges(folder, config.steps)
    saves.passed = rollback.check_passed(folder, passed, saves.restored, start)
    feeds = [feed(start, reading, passed)]
    at_exit(lambda: [feed.close() for feed in feeds])
    recorder = make_recorder(run, feeds, folder, start, saves)
    at_exit(recorder.close)
    probes = OnlineProbes(run, recorder, saves.score)
    check_unused_keys(config)
    claim.write_config(folder, stored)
    # Saved first: nothing that an evaluation does can lose the step.
    watchers = [
        recorder,
        saver(saves, recorder, config.steps),
        probes,
        *optional_observers(run, recorder, folder),
    ]
    tell(summary.beginning(run, start, folder))
    probes.resume(start, state)
    step = compile_step(run, feeds[0])
    count = len(run.data.source)
    recorder.begin()
    while int(state.step) < config.steps:
        try:
            state = loop(
                step, state, feeds[-1], int(state.step), config.steps, watchers, saves, stop
            )
        except rollback.Diverged as found:
            feeds[-1].close()
            state, passed = rollback.roll_back(
                folder, config, saves, run.shapes, found, count, config.alarm.max_rollbacks
            )
            feeds.append(feed(int(state.step), reading, passed))
            recorder.rewind(int(state.step))
    saves.close()
    recorder.close(observers.PATIENCE)
    check_updates(state, config)
    values = outcome(state, recorder, probes, feeds)
    tell(summary.ending(run, folder, values))
    return values


def tell(lines) -> None:
    """Logs lines that one process says for all."""
    for line in lines if jax.process_index() == 0 else ():
        log.info("%s", line)


def check_updates(state, config) -> None:
    """`UserError` if every update was skipped: the weights are those of step 0."""
    if int(state.skipped[1]) >= int(state.step) > 0:
        raise UserError(
            f"none of the {int(state.step)} updates was finite: nothing was learned; try a lower "
            f"config.optim.lr than {config.optim.lr:g} in another --workdir, and look at the data"
        )


def outcome(state, recorder, probes, feeds) -> dict:
    """The result of a run at its last step, of JSON's types; a number that is not known is None,
    and a note says why."""
    step = int(state.step)
    known = recorder.seen.get("loss") is not None
    scored = probes.found if probes.at == step else {}
    notes = {} if known else {"loss_note": "not known: metrics.jsonl has no loss of this run"}
    if notes:
        log.warning("the loss of step %d is not known: metrics.jsonl was lost", step)
    return summary.as_json(
        {
            "step": step,
            "loss": recorder.last.get("loss"),
            **notes,
            "examples_per_s": round(recorder.examples_per_s(), 1),
            "params_sha256": params_sha256(state.params),
            "knn_top1": scored.get("knn_top1"),
            "linear_top1": scored.get("linear_top1"),
            "damaged_examples": len({i for feed in feeds for i in feed.damaged}),
            "skipped_updates": int(state.skipped[1]),
            "failed_evaluations": probes.failed,
            "dropped_metrics": recorder.dropped(),
        }
    )


def loop(step, state, feed, start, steps, watchers, saves, stop, ahead: int = 8):
    """The loop itself. `Pace` bounds the steps that are queued on the device: without a bound the
    batches in flight would fill its memory, and a signal would be answered late.

    Where a stop is asked for, by a signal or in any wait below, the state of the last step that was
    begun is saved, and SystemExit(75) is raised.
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


def end_early(why: Stopped, start: int, done: int, state, saves) -> NoReturn:
    """Saves what can be saved of a run that was asked to stop after step `done`; exits with 75."""
    if done == start:
        log.warning("%s: stopped before step %d; start again to go on", why, done + 1)
    elif why.agreed:
        saves.save(done, state, None)
        saves.close()
        log.warning("%s: saved after step %d; start again to go on", why, done)
    else:
        log.warning(
            "%s: stopped in step %d, which not all processes can finish; nothing was saved since "
            "step %s; start again to go on",
            why,
            done + 1,
            saves.latest() or 0,
        )
    sys.exit(PREEMPTED)


def make_alarms(config, folder, start, saves):
    """One function (step, metrics) of all alarms that ``config.alarm`` describes."""
    section = dict(config.alarm)
    section.pop("max_rollbacks")
    nonfinite = rollback.NonFinite(section.pop("max_consecutive_nonfinite"))
    spike = SpikeAlarm(factor=section.pop("loss_spike_factor"))
    collapse = call_with_section(
        CollapseAlarm, section, "alarm", workdir=folder, checkpoints=saves.steps, start=start
    )

    def check(step: int, values: dict[str, float]) -> None:
        nonfinite(step, values)
        spike(step, values)
        collapse(step, values)

    return check


def make_recorder(run: Run, feeds, folder, start, saves):
    config = run.config
    device = run.mesh.devices.flat[0]
    peak = flops.peak(device.device_kind)
    if peak is None:
        log.info("no peak rate is known for %r: FLOP/s, no MFU", device.device_kind)
    opened = []
    if jax.process_index() == 0:
        log_to = config.log
        opened = loggers.open_all(
            folder,
            start=start,
            config=config._tree.to_dict(),
            tensorboard=log_to.tensorboard,
            wandb=log_to.wandb,
            mlflow=log_to.mlflow,
        )
    return observers.Recorder(
        start=start,
        steps=config.steps,
        every=config.log.every,
        examples=config.batch_size,
        flops=model_flops(run),
        waited=lambda: feeds[-1].waited,
        peak=peak and peak * run.mesh.devices.size,
        rates=optim.lr_per_step(config),
        newest=loggers.newest(folder, start),
        alarm=make_alarms(config, folder, start, saves),
        sinks=opened,
    )


def saver(saves, recorder, steps):
    """An observer that saves every ``checkpoint.every`` steps and at the end."""

    def observe(step, state, metrics):
        if step == steps or (saves.every and step % saves.every == 0):
            recorder.flush()
            saves.save(step, state)

    return observe


def optional_observers(run: Run, recorder, folder):
    """The observers that a config asks for: pictures, a profile. None of them can end the run."""
    made = []
    log_to = run.config.log
    if run.method.render and log_to.render_every:
        album = None
        if jax.process_index() == 0:

            def opens():
                return visualize.Album(folder, run.data.source)

            album = recorder.closes(Outbox("pictures", opens, limit=4))
        made.append(Soft("a picture", visualize.renderer(run, album, log_to.render_every)))
    if log_to.profile_step:
        writer = recorder.closes(Outbox("the profile", observers.Traces))
        traced = observers.profiler(folder, writer, log_to.profile_step, run.config.steps)
        made.append(Soft("the profile", traced))
    return made


def params_sha256(params) -> str:
    """SHA-256 over path, dtype, shape and bytes of every parameter, in the order of the paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ):
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())
        value = np.asarray(jax.device_put(leaf, everywhere))
        digest.update(f"{path} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()
