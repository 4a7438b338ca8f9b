"""`jssl embed`: the features of a data set in one file."""

import logging
import pathlib
import sys
from typing import Any

import jax
import ml_collections

from jssl.commands.arguments import require
from jssl.commands.evaluate import open_workdir
from jssl.commands.table import Args, Overrides
from jssl.config import Config, UserError, flatten
from jssl.core import TrainState
from jssl.data.sources.absent import Absent
from jssl.evals import feature_file
from jssl.evals.feature_parts import Parts, embed_parts
from jssl.evals.features import Features
from jssl.log import log_progress
from jssl.parallel import agreement
from jssl.parallel.preemption import PREEMPTED
from jssl.training.restore import load_state
from jssl.training.setup import Run, setup_run
from jssl.workdir.identity import digest
from jssl.workdir.run_folder import HOST, RunFolder

log = logging.getLogger("jssl")


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Embeds the data set that the config of the run and the overrides name.

    Raises:
      UserError: wrong input, or the parts of another run, checkpoint or data lie beside --out.
      SystemExit: with code 75 after SIGINT; the same command goes on.
    """
    workdir = require(args, "workdir", "embed")
    out = pathlib.Path(require(args, "out", "embed")).expanduser()
    agreement.run_on_all_processes(lambda: feature_file.check(out))
    folder, tree = open_workdir(args, workdir, overrides)
    jssl_run = setup_run(Config(tree), data_info=folder.data_info, training=False)
    source = jssl_run.data.source
    if isinstance(source, Absent):
        raise UserError(f"the data cannot be opened: {source.reason}")
    if not len(source):
        raise UserError(f"{source.name} has no examples; name other data with --config.data.path")
    state = load_state(jssl_run, folder, step=args["step"])
    features = Features(jssl_run.method.embed, jssl_run.mesh, jssl_run.config.eval.batch_size)
    facts = identity(folder, jssl_run, state, features, tree)
    parts = Parts(out, facts, len(source), features.batch_size)
    done = len(parts.ranges) - len(parts.missing())
    if done:
        log.info("%s: %d of %d parts are there", parts.folder, done, len(parts.ranges))
    is_main = jax.process_index() == 0
    try:
        embed_parts(features, state, source, parts, log_progress(source.name), is_main)
    except KeyboardInterrupt:
        log.info("stopped; the parts so far are in %s; the same command goes on", parts.folder)
        sys.exit(PREEMPTED)
    classes = None if source.classes is None else [str(name) for name in source.classes]
    written = agreement.first(lambda: finish(out, parts, classes))
    unreadable = len(source) - written["examples"]
    if unreadable:
        log.warning("%d of %d examples cannot be read and are left out", unreadable, len(source))
    step = int(state.step)
    return {"out": str(out), "step": step, **written, "unreadable_examples": unreadable}


def finish(out: pathlib.Path, parts: Parts, classes: list[str] | None) -> dict[str, int]:
    """Joins the parts and removes them; see `feature_file.write`."""
    written = feature_file.write(out, parts, classes)
    parts.remove()
    return written


def identity(
    folder: RunFolder,
    run: Run,
    state: TrainState,
    features: Features,
    tree: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Returns what decides the numbers of a part: run, step, config, data and devices."""
    flat = {name.removeprefix("config."): value for name, value in flatten(tree).items()}
    decisive = {name: value for name, value in flat.items() if name not in HOST}
    return {
        "run": folder.mark.run,
        "step": int(state.step),
        "config": digest(decisive, {}),
        "source": run.data.source.name,
        "data": run.data.source.fingerprint,
        "batch_size": features.batch_size,
        "devices": f"{features.devices} x {jax.devices()[0].device_kind}",
    }
