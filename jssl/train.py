"""The loop: config -> data -> `method.train_step` -> observers. It knows no method."""

import collections
import contextlib
import hashlib
import logging
import sys
from functools import partial

import jax
import numpy as np

from jssl import flops, lock, observe, optim, paths, pictures, rollback, workdir
from jssl.alarm import CollapseAlarm, SpikeAlarm
from jssl.checkpoint import Checkpoints
from jssl.config import Config, above, bind
from jssl.data.feed import Feed
from jssl.evals.offline import say
from jssl.evals.online import OnlineProbes
from jssl.run import Run, check_batch, check_read, compile_step, model_flops, prepare
from jssl.signals import PREEMPTED, asked_to_stop

log = logging.getLogger("jssl")


def train(tree, folder: str) -> dict:
    """Trains the config `tree` in the folder to its last step; goes on from its last checkpoint.

    Returns the result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1. Raises
    `UserError` for wrong input, SystemExit(75) if a signal asked it to stop (after saving).
    """
    tree = paths.absolute(tree)
    folder = workdir.open_for(folder, tree)
    if done := workdir.result(folder):
        return done
    with asked_to_stop() as stop, lock.alone(folder), contextlib.ExitStack() as open_things:
        workdir.open_for(folder, tree)  # again: this run may have waited for another one
        if done := workdir.result(folder):
            return done
        tree = workdir.remembered(folder, tree)
        run = prepare(Config(tree))
        check_batch(run)
        return workdir.finish(folder, _train(run, tree, folder, open_things.callback, stop))


def _train(run: Run, tree, folder, at_exit, stop) -> dict:
    """Opens what a run needs, and runs it; `at_exit(close)` is called for each thing opened."""
    config = run.config
    saves = bind(Checkpoints, config.checkpoint, "checkpoint", workdir=folder, read_only=False)
    saves.check_space(run.shapes)
    state = saves.restore(run.shapes)
    state = run.init() if state is None else state
    start, reading = int(state.step), say(f"reading {run.data.source.name}")
    feed = partial(Feed, run.data, config.seed, config.batch_size, run.mesh)
    feeds = [feed(start, reading, rollback.passed(folder))]
    at_exit(lambda: [feed.close() for feed in feeds])
    recorder = make_recorder(run, feeds, folder, start, saves)
    at_exit(recorder.close)
    probes = OnlineProbes(run, recorder)
    check_read(config)
    workdir.claim(folder, workdir.sized(tree, config))
    watchers = [recorder, probes, saver(saves, probes, config.steps), *extras(run, folder)]
    step, count = compile_step(run, feeds[0]), len(run.data.source)
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
    return {
        "step": int(state.step),
        "loss": recorder.last.get("loss"),
        "examples_per_s": round(recorder.examples_per_s(), 1),
        "params_sha256": params_sha256(state.params),
        "knn_top1": probes.found.get("knn_top1"),
        "linear_top1": probes.found.get("linear_top1"),
        "damaged_examples": len({i for feed in feeds for i in feed.damaged}),
        "skipped_updates": int(state.skipped[1]),
    }


def loop(step, state, feed, start, steps, watchers, saves, stop, ahead: int = 8):
    """The loop itself. At most `ahead` steps are queued on the device: without a bound the batches
    in flight would fill its memory; the wait is for a step `ahead` before the newest."""
    queued = collections.deque()
    if why := stop(start):
        log.warning("%s: stopped before step %d; start again to go on", why, start + 1)
        sys.exit(PREEMPTED)
    for i in range(start, steps):
        state, metrics = step(state, feed.held, feed.next())
        for watch in watchers:
            watch(i + 1, state, metrics)
        queued.append(metrics["loss"])
        if len(queued) > ahead:
            queued.popleft().block_until_ready()
        if (why := stop(i + 1)) and i + 1 < steps:
            saves.save(i + 1, state, None)
            saves.close()
            log.warning("%s: saved after step %d; start again to go on", why, i + 1)
            sys.exit(PREEMPTED)
    return state


def make_alarms(config, folder, start, saves):
    """One function (step, metrics) of all alarms that ``config.alarm`` describes."""
    above(config.alarm, -1, "nonfinite", "rollbacks")
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
    return observe.Recorder(
        folder, start=start, steps=config.steps, every=config.log.every,
        examples=config.batch_size, flops=model_flops(run), waited=lambda: feeds[-1].waited,
        peak=peak and peak * run.mesh.devices.size, rates=optim.all_rates(config),
        last=workdir.last_metrics(folder),
        alarm=make_alarms(config, folder, start, saves),
        tensorboard=config.log.tensorboard, wandb=config.log.wandb,
    )  # fmt: skip


def saver(saves, probes, steps):
    """An observer that saves every ``checkpoint.every`` steps and at the end."""

    def observe(step, state, metrics):
        if step == steps or (saves.every and step % saves.every == 0):
            known = probes.found.get("knn_top1") if probes.at == step else None
            saves.save(step, state, known)  # a score that was found at another step is not its

    return observe


def extras(run: Run, folder):
    """The observers that a config asks for: pictures, a profile."""
    made, log_to = [], run.config.log
    if run.method.render and log_to.render_every:
        made.append(pictures.renderer(run, folder, log_to.render_every))
    if log_to.profile_at:
        made.append(observe.profiler(folder, log_to.profile_at, run.config.steps))
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
