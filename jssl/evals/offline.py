"""`jssl eval`: what the encoder of a finished or running workdir is worth."""

import logging
import time

from jssl.checkpoint import Checkpoints
from jssl.config import Config, UserError, bind, near
from jssl.evals import knn, linear
from jssl.evals.features import Features
from jssl.evals.online import evaluation_source
from jssl.run import prepare

log = logging.getLogger("jssl")


def evaluate(tree, workdir, protocol: str) -> dict:
    """The JSON result of `protocol` for the newest checkpoint of `workdir`.

    Raises `UserError` for an unknown protocol, a data set without labels, a workdir without a
    checkpoint.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"--protocol={protocol} is unknown; {near(protocol, PROTOCOLS)}")
    config = Config(tree)
    run = prepare(config)
    bank, queries = run.data.source, evaluation_source(config)
    if bank.classes is None:
        raise UserError(
            f"config.data.source={config.data.source!r} ({bank.name}) has no labels, which a probe "
            "needs; name a labelled data set with --config.data..."
        )
    saves = bind(Checkpoints, config.checkpoint, "checkpoint", workdir=workdir)
    state = saves.restore(run.shapes)
    if state is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train it first")
    features = Features(run.method.embed, run.mesh, config.eval.batch_size)
    pairs = [features(state, source, say(source.name)) for source in (bank, queries)]
    found = PROTOCOLS[protocol](config, run.mesh, len(bank.classes), *pairs)
    return {"protocol": protocol, "step": int(state.step), **found}


def run_knn(config, mesh, classes, train_pair, test_pair) -> dict:
    (bank, known), (asked, labels), section = train_pair, test_pair, config.eval
    top1 = knn.top1(
        bank, known, asked, labels, classes=classes, k=section.knn_k,
        temperature=section.knn_temperature, mesh=mesh, chunk=section.batch_size,
    )  # fmt: skip
    return {"top1": top1, "n_train": int((known >= 0).sum()), "n_test": int((labels >= 0).sum())}


def run_linear(config, mesh, classes, train_pair, test_pair) -> dict:
    section = config.eval
    return linear.probe(
        *train_pair, *test_pair, classes=classes, lrs=section.linear_lrs,
        weight_decays=section.linear_weight_decays, epochs=section.linear_epochs,
        batch_size=section.linear_batch_size, held_out=section.linear_held_out,
        standardize=section.linear_standardize, seed=config.seed, mesh=mesh,
        progress=say("linear probe, epochs"),
    )  # fmt: skip


PROTOCOLS = {"knn": run_knn, "linear": run_linear}


def say(what: str, every: float = 5.0):
    """progress(done, total) -> a line in the log every few seconds, none for what is quick."""
    last = time.monotonic()

    def progress(done, total):
        nonlocal last
        if time.monotonic() - last > every:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)

    return progress
