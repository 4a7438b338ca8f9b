"""Evaluates the encoder during training: kNN and a linear probe, every ``eval.every`` steps and
at the end, on features that are computed once for both.

The probe is trained anew each time, on fixed features. So its gradients cannot reach the encoder,
and it never lags behind.

The queries are checked before the first step. An evaluation that fails later is a warning: the step
is already saved, and training continues.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax

from jssl import data
from jssl.config import Config, ConfigError, UserError
from jssl.core import DatasetInfo, Metrics, TrainState
from jssl.data import files
from jssl.data.labels import relabel
from jssl.data.source import Source
from jssl.evals import knn, linear
from jssl.evals.features import Features

if TYPE_CHECKING:
    from jssl.training.observers import Recorder
    from jssl.training.setup import Run

log = logging.getLogger("jssl")
NAMES = ("knn_top1", "linear_top1")


class OnlineProbes:
    """An observer that evaluates a step after it was saved; off without labels.

    Attributes:
      found: {name: accuracy} of the newest evaluation that did not fail.
      at: the step of that evaluation; None before the first.
      failed: number of evaluations that failed.
      ended: the reason why the run ends early; "" while it goes on.
    """

    def __init__(
        self,
        run: Run,
        recorder: Recorder,
        scored: Callable[[int, float], None] = lambda step, accuracy: None,
        stop: Callable[[int], str] = lambda step: "",
    ):
        """Checks the queries.

        Args:
          run: the run.
          recorder: receives the accuracies.
          scored: scored(step, accuracy) is called with the kNN accuracy of every evaluation.
          stop: stop(step) returns the reason to end the run early, or "".

        Raises:
          UserError: the queries cannot be read or embedded.
        """
        self.run = run
        self.recorder = recorder
        self.scored = scored
        self.found = {name: recorder.last[name] for name in NAMES if name in recorder.last}
        self.at = recorder.seen.get("knn_top1")
        self.stop = stop
        self.failed = 0
        self.ended = ""
        self.every = run.config.eval.every
        self.steps = run.config.steps
        self.pair = labeled(run) if self.every else None
        self.features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)
        if self.pair:
            check(run, self.features, self.pair[1])

    def __call__(self, step: int, state: TrainState, metrics: Metrics | None) -> None:
        """Evaluates `state` if an evaluation is due at `step`."""
        if not self.pair or (step % self.every and step != self.steps):
            return
        with self.recorder.aside():  # not around later code, in which an alarm may raise
            self._evaluate(step, state)
        if step != self.steps:
            self.ended = self.stop(step)
        if self.ended and metrics is not None:
            self.recorder.end_early(step, metrics)

    def resume(self, step: int, state: TrainState) -> None:
        """Evaluates the step from which a run continues, if this evaluation was due and is missing.

        That happens if the run was stopped between the save and the end of the evaluation. A run
        that had ended early, and was stopped before it wrote its result, ends early again.
        """
        if step and self.at != step:
            self(step, state, None)
        elif step and step != self.steps:
            self.ended = self.stop(step)

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates a state; an error is a warning."""
        assert self.pair is not None
        bank, queries = self.pair
        began = time.perf_counter()
        try:
            accuracies = probe(self.run, state, bank, queries, self.features)
        except Exception as error:
            # Wrong input fails on all processes. Another error may fail on one process alone, and
            # the others would wait for it.
            if jax.process_count() > 1 and not isinstance(error, UserError):
                raise
            self.failed += 1
            what = type(error).__name__ if not isinstance(error, UserError) else "wrong input"
            reason = files.one_line(error)
            log.warning("step %d: not evaluated (%s: %s); training goes on", step, what, reason)
            return
        seconds = time.perf_counter() - began
        self.found = accuracies
        self.at = step
        self.scored(step, accuracies["knn_top1"])
        self.recorder.write(step, accuracies | {"eval_seconds": seconds})
        listed = ", ".join(f"{name} {value:.4f}" for name, value in accuracies.items())
        log.info("step %d: %s (%.1f s)", step, listed, seconds)


def check(run: Run, features: Features, queries: Source) -> None:
    """Reads one batch of the queries and traces their features; UserError if either fails."""
    try:
        batch = features._read(queries, 0)[0]
    except (files.Damaged, OSError) as error:
        raise ConfigError(
            "config.eval.split",
            run.config.eval.split,
            f"{queries.name} cannot be read: {files.one_line(error)}",
            "repair it, or set --config.eval.every=0",
        ) from None
    shape = jax.eval_shape(features.embed, run.shapes, batch)
    rows = len(jax.tree.leaves(batch)[0])
    if getattr(shape, "ndim", 0) != 2 or len(shape) != rows:
        raise ConfigError(
            "config.method",
            run.config.method,
            f"embed gives {shape} for {rows} examples",
            f"it must give features [{rows}, D]",
        )


def labeled(run: Run) -> tuple[Source, Source] | None:
    """Returns (bank source, query source), or None and logs the reason."""
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
    """Opens the split ``eval.split`` of the training source."""
    section = dict(config.data) | {"split": config.eval.split}
    try:
        return data.load_again(section, data_info).source
    except UserError as error:
        raise UserError(str(error).replace("config.data.split=", "config.eval.split=")) from None


def evaluation_source(config: Config, data_info: DatasetInfo, classes: Sequence[str]) -> Source:
    """Opens `held_out`, on which accuracy is measured, with the class numbers of the training set.

    Args:
      config: the config of the run.
      data_info: the facts about its data set.
      classes: class names of the training set, by number; see `relabel`.

    Raises:
      UserError: the source has no labels, or cannot be opened.
    """
    source = relabel(
        held_out(config, data_info), classes, f"--config.eval.split={config.eval.split!r}"
    )
    if source.classes is None:
        if getattr(source, "pack", False):
            raise ConfigError(
                "config.data.pack_documents",
                True,
                f"joins the examples of {source.name}, and so leaves out their labels, which a "
                "probe needs",
                "set it to False",
            )
        raise ConfigError(
            "config.eval.split",
            config.eval.split,
            f"{source.name} has no labels there, which a probe needs",
            "name a labeled split, or set --config.eval.every=0",
        )
    return source


def probe(
    run: Run, state: TrainState, bank: Source, queries: Source, features: Features
) -> dict[str, float]:
    """Returns top-1 of the weighted kNN, and of a quick linear probe if it is enabled.

    Args:
      run: the run.
      state: its state.
      bank: the training split.
      queries: the evaluation split.
      features: computes the features.
    """
    config = run.config.eval
    mesh = run.mesh
    pairs = (*features(state, bank), *features(state, queries))
    assert bank.classes is not None, "`labeled` has checked it"
    classes = len(bank.classes)
    accuracies = {
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
        accuracies["linear_top1"] = linear.probe(
            *pairs,
            classes=classes,
            lrs=config.linear_lrs,
            weight_decays=(0.0,),
            epochs=config.online_linear_epochs,
            batch_size=config.linear_batch_size,
            val_fraction=config.linear_val_fraction,
            standardize=config.linear_standardize,
            seed=run.config.seed,
            mesh=mesh,
        )["top1"]
    return accuracies
