"""The loop: config -> data -> `method.train_step` -> observers. It knows no method."""

import contextlib
import hashlib
import logging
import sys
from functools import partial
from typing import NoReturn

import jax
import numpy as np

from jssl import (
    agree,
    claim,
    flops,
    identity,
    lock,
    memory,
    observe,
    optim,
    paths,
    pictures,
    result,
    rollback,
    sinks,
    surroundings,
    workdir,
)
from jssl.alarm import CollapseAlarm, SpikeAlarm
from jssl.checkpoint import Checkpoints
from jssl.config import Config, UserError, bind
from jssl.data.feed import Feed
from jssl.evals.offline import say
from jssl.evals.online import OnlineProbes
from jssl.mesh import everywhere
from jssl.outbox import Outbox, Soft
from jssl.pace import Pace
from jssl.run import Run, check_batch, check_read, compile_step, model_flops, prepare
from jssl.signals import PREEMPTED, Stopped, asked_to_stop

log = logging.getLogger("jssl")


def train(tree, folder: str, *, extend: bool = False, changed_data: bool = False) -> dict:
    """Trains the config `tree` in the folder to its last step; goes on from its last checkpoint.

    extend        the run in the folder, finished or not, gets the steps of `tree`
    changed_data  it goes on although its data set has changed since it began

    Returns the result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1. Raises
    `UserError` for wrong input, SystemExit(75) if a signal asked it to stop (after saving).
    """
    surroundings.check_rerun()
    tree = paths.absolute(tree)
    flags = {"--extend": extend, "--changed-data": changed_data}
    agree.check(lambda: claim.common(tree, **flags))
    folder, tree = agree.together(partial(workdir.open_for, folder, tree, extend))
    if done := finished(folder, tree):
        return done
    try:
        with asked_to_stop() as stop, lock.alone(folder), contextlib.ExitStack() as open_things:
            claim.check_shared(folder)
            # Again: this run may have waited for another one.
            _, tree = agree.together(partial(workdir.open_for, folder, tree, extend))
            if done := finished(folder, tree):
                return done
            tree = agree.together(lambda: workdir.remembered(folder, tree))
            run = prepare(Config(tree))
            check_batch(run)
            stored = claim.content(
                folder,
                workdir.sized(tree, run.config),
                getattr(run.data.source, "fingerprint", ""),
                extend=extend,
                changed_data=changed_data,
            )
            with memory.explained(run):
                values = _train(run, stored, folder, open_things.callback, stop)
            return workdir.finish(folder, values, identity.mark_of(stored))
    except Stopped as why:  # outside the loop: no step was done since the last checkpoint
        log.warning("%s: stopped outside the steps; start again to go on", why)
        sys.exit(PREEMPTED)


def finished(folder, tree) -> dict | None:
    """The result of the folder's run, if it is done. `UserError` if `tree` names other data."""
    done = agree.first(lambda: workdir.result(folder, tree.steps))
    if done is not None:
        claim.check_data(folder, tree)
    return done


def _train(run: Run, stored, folder, at_exit, stop) -> dict:
    """Opens what a run needs, and runs it; `at_exit(close)` is called for each thing opened. The
    folder is claimed by `stored` once all of it is open."""
    config = run.config
    given = {"workdir": folder, "read_only": False, "mark": identity.mark_of(stored)}
    saves = bind(Checkpoints, config.checkpoint, "checkpoint", **given)
    saves.check_space(run.shapes)
    state = saves.restore(run.shapes)
    state = run.init() if state is None else state
    start, reading = int(state.step), say(f"reading {run.data.source.name}")
    feed = partial(Feed, run.data, config.seed, config.batch_size, run.mesh)
    claim.clear(folder, stored)
    passed = rollback.passed(folder, config.steps)
    saves.passed = rollback.check_passed(folder, passed, saves.restored, start)
    feeds = [feed(start, reading, passed)]
    at_exit(lambda: [feed.close() for feed in feeds])
    recorder = make_recorder(run, feeds, folder, start, saves)
    at_exit(recorder.close)
    probes = OnlineProbes(run, recorder, saves.score)
    check_read(config)
    claim.claim(folder, stored)
    # Saved first: nothing that an evaluation does can lose the step.
    watchers = [
        recorder,
        saver(saves, recorder, config.steps),
        probes,
        *extras(run, recorder, folder),
    ]
    tell(result.beginning(run, start, folder))
    probes.resume(start, state)
    step, count = compile_step(run, feeds[0]), len(run.data.source)
    recorder.begin()
    while int(state.step) < config.steps:
        try:
            state = loop(
                step, state, feeds[-1], int(state.step), config.steps, watchers, saves, stop
            )
        except rollback.Diverged as found:
            feeds[-1].close()
            state, passed = rollback.back(
                folder, config, saves, run.shapes, found, count, config.alarm.rollbacks
            )
            feeds.append(feed(int(state.step), reading, passed))
            recorder.rewind(int(state.step))
    saves.close()
    recorder.close(observe.PATIENCE)
    check_updates(state, config)
    values = outcome(state, recorder, probes, feeds)
    tell(result.ending(run, folder, values))
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
    step, known = int(state.step), recorder.seen.get("loss") is not None
    scored = probes.found if probes.at == step else {}
    notes = {} if known else {"loss_note": "not known: metrics.jsonl has no loss of this run"}
    if notes:
        log.warning("the loss of step %d is not known: metrics.jsonl was lost", step)
    return result.as_json(
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
    pace, done = Pace(ahead), start
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
            "step %s; start again to go on", why, done + 1, saves.latest() or 0,
        )  # fmt: skip
    sys.exit(PREEMPTED)


def make_alarms(config, folder, start, saves):
    """One function (step, metrics) of all alarms that ``config.alarm`` describes."""
    section = dict(config.alarm)
    section.pop("rollbacks")
    alarms = [rollback.NonFinite(section.pop("nonfinite")), SpikeAlarm(spike=section.pop("spike"))]
    alarms.append(bind(
        CollapseAlarm, section, "alarm", workdir=folder, checkpoints=saves.steps, start=start
    ))  # fmt: skip
    return lambda step, values: [alarm(step, values) for alarm in alarms]


def make_recorder(run: Run, feeds, folder, start, saves):
    config, device = run.config, run.mesh.devices.flat[0]
    peak = flops.peak(device.device_kind)
    if peak is None:
        log.info("no peak rate is known for %r: FLOP/s, no MFU", device.device_kind)
    opened = []
    if jax.process_index() == 0:
        log_to = config.log
        opened = sinks.open_all(
            folder, start=start, config=config._tree.to_dict(), tensorboard=log_to.tensorboard,
            wandb=log_to.wandb, mlflow=log_to.mlflow,
        )  # fmt: skip
    return observe.Recorder(
        start=start, steps=config.steps, every=config.log.every,
        examples=config.batch_size, flops=model_flops(run), waited=lambda: feeds[-1].waited,
        peak=peak and peak * run.mesh.devices.size, rates=optim.all_rates(config),
        newest=sinks.newest(folder, start),
        alarm=make_alarms(config, folder, start, saves),
        sinks=opened,
    )  # fmt: skip


def saver(saves, recorder, steps):
    """An observer that saves every ``checkpoint.every`` steps and at the end."""

    def observe(step, state, metrics):
        if step == steps or (saves.every and step % saves.every == 0):
            recorder.flush()
            saves.save(step, state)

    return observe


def extras(run: Run, recorder, folder):
    """The observers that a config asks for: pictures, a profile. None of them can end the run."""
    made, log_to = [], run.config.log
    if run.method.render and log_to.render_every:
        album = None
        if jax.process_index() == 0:
            opens = lambda: pictures.Album(folder, run.data.source)
            album = recorder.closes(Outbox("pictures", opens, limit=4))
        made.append(Soft("a picture", pictures.renderer(run, album, log_to.render_every)))
    if log_to.profile_at:
        writer = recorder.closes(Outbox("the profile", observe.Traces))
        traced = observe.profiler(folder, writer, log_to.profile_at, run.config.steps)
        made.append(Soft("the profile", traced))
    return made


def params_sha256(params) -> str:
    """SHA-256 over path, dtype, shape and bytes of every parameter, in the order of the paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ):
        value = np.asarray(jax.device_put(leaf, everywhere(leaf.sharding.mesh)))
        digest.update(f"{path} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()
