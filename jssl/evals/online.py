"""kNN accuracy of the encoder while it trains, every ``eval.every`` steps and at the end."""

import logging
import time

from jssl import data
from jssl.config import UserError, bind
from jssl.evals import knn
from jssl.evals.features import Features

log = logging.getLogger("jssl")


class OnlineKNN:
    """An observer. `top1` is the newest accuracy, None before the first; off without labels."""

    def __init__(self, run, recorder):
        self.run, self.recorder, self.top1 = run, recorder, recorder.last.get("knn_top1")
        self.every, self.steps = run.config.eval.every, run.config.steps
        self.pair = labelled(run) if self.every else None
        self.features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)

    def __call__(self, step, state, metrics):
        if not self.pair or (step % self.every and step != self.steps):
            return
        with self.recorder.aside():
            began = time.perf_counter()
            self.top1 = knn_top1(self.run, state, *self.pair, self.features)
            seconds = time.perf_counter() - began
        self.recorder.write(step, {"knn_top1": self.top1, "eval_seconds": seconds})
        log.info("step %d: kNN top-1 %.4f (%.1f s)", step, self.top1, seconds)


def labelled(run):
    """(bank source, query source), or None with a line in the log that says why not."""
    bank = run.data.source
    if bank.classes is None:
        log.info("%s has no labels: no kNN during training", bank.name)
        return None
    try:
        return bank, evaluation_source(run.config)
    except UserError as error:
        log.warning("no kNN during training: %s", error)
        return None


def evaluation_source(config):
    """The source that accuracy is measured on: the training source's split ``eval.split``."""
    section = dict(config.data) | {"split": config.eval.split}
    source = bind(data.load, section, "data").source
    if source.classes is None:
        raise UserError(
            f"config.eval.split={config.eval.split!r} of {source.name} has no labels, which a "
            "probe needs; name a labelled split, or set config.eval.every=0"
        )
    return source


def knn_top1(run, state, bank, queries, features) -> float:
    """Top-1 of the weighted kNN with the training split as its bank."""
    config = run.config.eval
    known, known_labels = features(state, bank)
    asked, labels = features(state, queries)
    return knn.top1(
        known, known_labels, asked, labels, classes=len(bank.classes), k=config.knn_k,
        temperature=config.knn_temperature, mesh=run.mesh, chunk=config.batch_size,
    )  # fmt: skip
