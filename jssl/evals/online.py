"""What the encoder is worth while it trains: kNN and a linear probe, every ``eval.every`` steps and
at the end, on features that are computed once for both.

The probe is fitted anew each time to features that are fixed by then: its gradients cannot reach
the encoder, and it never lags behind.

What can be wrong with the queries is looked for before the first step. An evaluation that fails
later is a warning: the step is saved by then, and training goes on.
"""

import logging
import time

import jax

from jssl import data
from jssl.config import Config, UserError
from jssl.core import DatasetInfo
from jssl.data import files
from jssl.data.labels import relabel
from jssl.data.source import Source
from jssl.evals import knn, linear
from jssl.evals.features import Features

log = logging.getLogger("jssl")
NAMES = ("knn_top1", "linear_top1")


class OnlineProbes:
    """An observer, to be called after a step was saved; off without labels.

    found   {name: accuracy} of the newest evaluation that did not fail
    at      its step; None before the first
    failed  number of evaluations that failed

    `scored(step, accuracy)` hears the kNN accuracy of every evaluation.
    """

    def __init__(self, run, recorder, scored=lambda step, accuracy: None):
        self.run = run
        self.recorder = recorder
        self.scored = scored
        self.found = {name: recorder.last[name] for name in NAMES if name in recorder.last}
        self.at = recorder.seen.get("knn_top1")
        self.failed = 0
        self.every = run.config.eval.every
        self.steps = run.config.steps
        self.pair = labelled(run) if self.every else None
        self.features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)
        if self.pair:
            check(run, self.features, self.pair[1])

    def __call__(self, step, state, metrics):
        if not self.pair or (step % self.every and step != self.steps):
            return
        with self.recorder.aside():  # outside of what follows: an alarm may ring in it
            self._evaluate(step, state)

    def resume(self, step: int, state) -> None:
        """Evaluates the step that a run goes on from, if that is due and the run was stopped
        between the save and the end of the evaluation."""
        if step and self.at != step:
            self(step, state, None)

    def _evaluate(self, step, state):
        began = time.perf_counter()
        try:
            found = probe(self.run, state, *self.pair, self.features)
        except Exception as error:
            # Of several processes only wrong input is known to fail on all of them; what fails on
            # one alone would leave the others waiting for it.
            if jax.process_count() > 1 and not isinstance(error, UserError):
                raise
            self.failed += 1
            what = type(error).__name__ if not isinstance(error, UserError) else "wrong input"
            said = files.one_line(error)
            log.warning("step %d: not evaluated (%s: %s); training goes on", step, what, said)
            return
        seconds = time.perf_counter() - began
        self.found = found
        self.at = step
        self.scored(step, found["knn_top1"])
        self.recorder.write(step, found | {"eval_seconds": seconds})
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        log.info("step %d: %s (%.1f s)", step, said, seconds)


def check(run, features, queries) -> None:
    """Reads one batch of the queries and traces their features. `UserError` if either fails."""
    try:
        batch = features._read(queries, 0)[0]
    except (files.Damaged, OSError) as error:
        raise UserError(
            f"config.eval.split={run.config.eval.split!r} of {queries.name} cannot be read: "
            f"{files.one_line(error)}; mend it, or set config.eval.every=0"
        ) from None
    found = jax.eval_shape(features.embed, run.shapes, batch)
    rows = len(jax.tree.leaves(batch)[0])
    if getattr(found, "ndim", 0) != 2 or len(found) != rows:
        raise UserError(
            f"config.method={run.config.method!r}: embed gives {found} for {rows} examples; "
            f"it must give features [{rows}, D]"
        )


def labelled(run):
    """(bank source, query source), or None with a line in the log that says why not."""
    bank = run.data.source
    if bank.classes is None:
        log.info("%s has no labels: no kNN during training", bank.name)
        return None
    try:
        return bank, evaluation_source(run.config, run.data_info, bank.classes)
    except UserError as error:
        log.warning("no kNN during training: %s", error)
        return None


def held_out(config: Config, data_info: DatasetInfo) -> Source:
    """The split ``eval.split`` of the training source."""
    section = dict(config.data) | {"split": config.eval.split}
    try:
        return data.load_again(section, data_info).source
    except UserError as error:
        raise UserError(str(error).replace("data.split=", "config.eval.split=")) from None


def evaluation_source(config: Config, data_info: DatasetInfo, classes: list[str]) -> Source:
    """`held_out`, on which accuracy is measured, its labels numbered like `classes` (those of the
    training set; see `relabel`). Raises UserError if it has no labels."""
    source = relabel(held_out(config, data_info), classes, f"config.eval.split={config.eval.split}")
    if source.classes is None:
        if getattr(source, "pack", False):
            raise UserError(
                f"config.data.pack_documents=True joins the examples of {source.name}, and so "
                "leaves out their labels, which a probe needs; set config.data.pack_documents=False"
            )
        raise UserError(
            f"config.eval.split={config.eval.split!r} of {source.name} has no labels, which a "
            "probe needs; name a labelled split, or set config.eval.every=0"
        )
    return source


def probe(run, state, bank, queries, features) -> dict[str, float]:
    """Top-1 of the weighted kNN, whose bank is the training split, and of a quick linear probe."""
    config = run.config.eval
    mesh = run.mesh
    pairs = (*features(state, bank), *features(state, queries))
    classes = len(bank.classes)
    found = {
        "knn_top1": knn.top1(
            *pairs,
            classes=classes,
            k=config.knn_k,
            temperature=config.knn_temperature,
            mesh=mesh,
            chunk=config.batch_size,
        )
    }
    if config.online_linear_epochs:
        found["linear_top1"] = linear.probe(
            *pairs,
            classes=classes,
            lrs=config.linear_lrs,
            weight_decays=(0.0,),
            epochs=config.online_linear_epochs,
            batch_size=config.linear_batch_size,
            held_out=config.linear_val_fraction,
            standardize=config.linear_standardize,
            seed=run.config.seed,
            mesh=mesh,
        )["top1"]
    return found
