"""`jssl embed`: the features of a data set in one file, or for the projector of TensorBoard."""

import logging
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import ml_collections

from jssl.commands.arguments import count, require
from jssl.commands.evaluate import open_workdir
from jssl.commands.table import Args, Overrides
from jssl.config import Config, ConfigError, UserError, flatten
from jssl.core import TrainState
from jssl.data.sources.absent import Absent
from jssl.evals import feature_file
from jssl.evals.feature_parts import Parts, embed_parts
from jssl.evals.features import Features
from jssl.log import log_progress
from jssl.parallel import agreement
from jssl.parallel.preemption import PREEMPTED
from jssl.reports import projector
from jssl.reports.examples import embed_rows
from jssl.training.restore import load_state
from jssl.training.setup import Run, setup_run
from jssl.workdir.identity import digest
from jssl.workdir.run_folder import HOST, RunFolder

log = logging.getLogger("jssl")


class Encoder(NamedTuple):
    """The encoder of a workdir, and the data that it embeds."""

    folder: RunFolder
    tree: ml_collections.ConfigDict
    run: Run
    state: TrainState
    features: Features


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Embeds the data set that the config of the run and the overrides name.

    Raises:
      UserError: wrong input, or the parts of another run, checkpoint or data lie beside --out.
      SystemExit: with code 75 after SIGINT; the same command goes on.
    """
    require(args, "workdir", "embed")
    if args["projector"]:
        return to_projector(args, overrides)
    if args["examples"]:
        raise ConfigError("examples", args["examples"], "is of --projector", "add --projector")
    out = pathlib.Path(require(args, "out", "embed")).expanduser()
    agreement.run_on_all_processes(lambda: feature_file.check(out))
    return to_file(open_encoder(args, overrides), out)


def open_encoder(args: Args, overrides: Overrides) -> Encoder:
    """Opens the run and its data; raises `UserError` if there is no data or no checkpoint."""
    folder, tree = open_workdir(args, args["workdir"], overrides)
    jssl_run = setup_run(Config(tree), data_info=folder.data_info, training=False)
    source = jssl_run.data.source
    if isinstance(source, Absent):
        raise UserError(f"the data cannot be opened: {source.reason}")
    if not len(source):
        raise UserError(f"{source.name} has no examples; name other data with --config.data.path")
    state = load_state(jssl_run, folder, step=args["step"])
    features = Features(jssl_run.method.embed, jssl_run.mesh, jssl_run.config.eval.batch_size)
    return Encoder(folder, tree, jssl_run, state, features)


def to_projector(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Embeds some examples, and writes them for the projector of TensorBoard."""
    examples = count(args | {"examples": args["examples"] or "2000"}, "examples")
    out = pathlib.Path(args["out"]).expanduser() if args["out"] else None
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError("out", out, "in a folder that does not exist", "make the folder first")
    encoder = open_encoder(args, overrides)
    source = encoder.run.data.source
    split = encoder.run.config.data.split
    embedded = embed_rows(encoder.features, encoder.state, source, split, examples)
    target = out or encoder.folder.path / "tensorboard"
    step = int(encoder.state.step)
    agreement.first(lambda: projector.write(target, embedded, source.classes or (), step))
    log.info("TensorBoard shows the features of %s in its tab PROJECTOR", target)
    number, dim = embedded.features.shape
    return {"out": str(target), "step": step, "examples": number, "dim": dim}


def to_file(encoder: Encoder, out: pathlib.Path) -> dict[str, Any]:
    """Embeds all examples in parts, and joins them to one file."""
    source = encoder.run.data.source
    facts = identity(encoder)
    parts = Parts(out, facts, len(source), encoder.features.batch_size)
    done = len(parts.ranges) - len(parts.missing())
    if done:
        log.info("%s: %d of %d parts are there", parts.folder, done, len(parts.ranges))
    is_main = jax.process_index() == 0
    try:
        embed_parts(
            encoder.features, encoder.state, source, parts, log_progress(source.name), is_main
        )
    except KeyboardInterrupt:
        log.info("stopped; the parts so far are in %s; the same command goes on", parts.folder)
        sys.exit(PREEMPTED)
    classes = None if source.classes is None else [str(name) for name in source.classes]
    written = agreement.first(lambda: finish(out, parts, classes))
    unreadable = len(source) - written["examples"]
    if unreadable:
        log.warning("%d of %d examples cannot be read and are left out", unreadable, len(source))
    step = int(encoder.state.step)
    return {"out": str(out), "step": step, **written, "unreadable_examples": unreadable}


def finish(out: pathlib.Path, parts: Parts, classes: list[str] | None) -> dict[str, int]:
    """Joins the parts and removes them; see `feature_file.write`."""
    written = feature_file.write(out, parts, classes)
    parts.remove()
    return written


def identity(encoder: Encoder) -> dict[str, Any]:
    """Returns what decides the numbers of a part: run, step, config, data and devices."""
    flat = {name.removeprefix("config."): value for name, value in flatten(encoder.tree).items()}
    decisive = {name: value for name, value in flat.items() if name not in HOST}
    source = encoder.run.data.source
    return {
        "run": encoder.folder.mark.run,
        "step": int(encoder.state.step),
        "config": digest(decisive, {}),
        "source": source.name,
        "data": source.fingerprint,
        "batch_size": encoder.features.batch_size,
        "devices": f"{encoder.features.devices} x {jax.devices()[0].device_kind}",
    }
