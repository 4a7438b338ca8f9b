"""What the encoder is worth while it trains: kNN and a linear probe, every ``eval.every`` steps and
at the end, on features that are computed once for both.

The probe is fitted anew each time to features that are fixed by then: its gradients cannot reach
the encoder, and it never lags behind.
"""

import logging
import time

from jssl import data
from jssl.config import UserError, bind
from jssl.data.labels import relabel
from jssl.evals import knn, linear
from jssl.evals.features import Features

log = logging.getLogger("jssl")


class OnlineProbes:
    """An observer. `found` holds the newest accuracies, {} before the first; off without labels."""

    def __init__(self, run, recorder):
        self.run, self.recorder, names = run, recorder, ("knn_top1", "linear_top1")
        self.found = {name: recorder.last[name] for name in names if name in recorder.last}
        self.at = None  # the step of `found`, if this process found it
        self.every, self.steps = run.config.eval.every, run.config.steps
        self.pair = labelled(run) if self.every else None
        self.features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)

    def __call__(self, step, state, metrics):
        if not self.pair or (step % self.every and step != self.steps):
            return
        with self.recorder.aside():
            began = time.perf_counter()
            self.at = step
            self.found = probe(self.run, state, *self.pair, self.features)
            seconds = time.perf_counter() - began
        self.recorder.write(step, self.found | {"eval_seconds": seconds})
        said = ", ".join(f"{name} {value:.4f}" for name, value in self.found.items())
        log.info("step %d: %s (%.1f s)", step, said, seconds)


def labelled(run):
    """(bank source, query source), or None with a line in the log that says why not."""
    bank = run.data.source
    if bank.classes is None:
        log.info("%s has no labels: no kNN during training", bank.name)
        return None
    try:
        return bank, evaluation_source(run.config, bank.classes)
    except UserError as error:
        log.warning("no kNN during training: %s", error)
        return None


def held_out(config):
    """The split ``eval.split`` of the training source."""
    section = dict(config.data) | {"split": config.eval.split}
    try:
        return bind(data.load, section, "data").source
    except UserError as error:
        raise UserError(str(error).replace("data.split=", "config.eval.split=")) from None


def evaluation_source(config, classes: list[str]):
    """`held_out`, on which accuracy is measured, its labels numbered like `classes` (those of the
    training set; see `relabel`). Raises UserError if it has no labels."""
    source = relabel(held_out(config), classes, f"config.eval.split={config.eval.split}")
    if source.classes is None:
        if getattr(source, "pack", False):
            raise UserError(
                f"config.data.pack=True joins the examples of {source.name}, and so leaves out "
                "their labels, which a probe needs; set config.data.pack=False"
            )
        raise UserError(
            f"config.eval.split={config.eval.split!r} of {source.name} has no labels, which a "
            "probe needs; name a labelled split, or set config.eval.every=0"
        )
    return source


def probe(run, state, bank, queries, features) -> dict[str, float]:
    """Top-1 of the weighted kNN, whose bank is the training split, and of a quick linear probe."""
    config, mesh = run.config.eval, run.mesh
    pairs = (*features(state, bank), *features(state, queries))
    classes = len(bank.classes)
    found = {
        "knn_top1": knn.top1(
            *pairs, classes=classes, k=config.knn_k, temperature=config.knn_temperature,
            mesh=mesh, chunk=config.batch_size,
        )
    }  # fmt: skip
    if config.online_linear_epochs:
        found["linear_top1"] = linear.probe(
            *pairs, classes=classes, lrs=config.linear_lrs, weight_decays=(0.0,),
            epochs=config.online_linear_epochs, batch_size=config.linear_batch_size,
            held_out=config.linear_held_out, standardize=config.linear_standardize,
            seed=run.config.seed, mesh=mesh,
        )["top1"]  # fmt: skip
    return found
