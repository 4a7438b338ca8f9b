"""`jssl eval`: evaluates the encoder of a finished or running workdir."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jssl.commands.arguments import require
from jssl.commands.export import check_request
from jssl.commands.table import Args, Overrides
from jssl.config import (
    Config,
    ConfigError,
    UserError,
    load,
    override,
    plugins,
    resolve_key,
    suggest,
    trust,
)
from jssl.core import TrainState
from jssl.data import DataConfig
from jssl.data.source import Source
from jssl.data.sources.absent import need
from jssl.evals import generation, knn, language, linear, lowshot
from jssl.evals.features import Features
from jssl.evals.finetune import finetune
from jssl.evals.online import evaluation_source, held_out
from jssl.interop import export
from jssl.interop.export_run import export_weights
from jssl.interop.run_weights import classifier
from jssl.log import log_progress
from jssl.training.restore import load_state
from jssl.training.setup import Run, setup_run
from jssl.workdir.best import check_name
from jssl.workdir.run_folder import RunFolder

FREE = ("eval", "finetune", "data", "mesh")  # sections that an evaluation may change
Pair = tuple[np.ndarray, np.ndarray]  # features float32 [N, D], labels int32 [N]


def evaluate(
    tree: ml_collections.ConfigDict,
    run_dir: RunFolder,
    protocol: str,
    random_init: bool = False,
    step: str = "last",
    save: Callable[[Run, int, TrainState], None] = lambda run, step, tuned: None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a workdir.

    Args:
      tree: the config of the run.
      run_dir: the folder of the run.
      protocol: one of `KNOWN`, or a module outside jssl with a function ``evaluate``, a `Protocol`.
      random_init: whether to evaluate the encoder at step 0 instead.
      step: the checkpoint: "best" by kNN, "last" or the number of a step.
      save: save(run, step, tuned) is called with the state that "finetune" has made from a step.

    Returns:
      A dict of JSON values: the protocol, the step, and the figures of the protocol.

    Raises:
      UserError: an unknown protocol, a data set without labels, or a workdir without a checkpoint.
    """
    if protocol not in KNOWN and not plugins.is_outside(protocol):
        raise ConfigError("protocol", protocol, "unknown", suggest(protocol, KNOWN))
    check_name(step)
    config = Config(tree)
    info = run_dir.data_info
    reads_text = protocol in language.PROTOCOLS
    text_data = None
    if reads_text and (protocol == "perplexity" or not config.eval.prompt):
        text_data = DataConfig(held_out(config, info), False, 0, 0.0)  # no other data is needed
    run = setup_run(config, source=text_data, data_info=info, training=False)
    bank = run.data.source
    queries = bank if reads_text else queries_of(run, protocol)
    state = load_state(run, run_dir, random_init, step)
    if reads_text:
        result = language.evaluate(run, state, queries, protocol, log_progress)
    elif protocol == "generation":
        result = generation.evaluate(run, state, queries, log_progress)
    elif protocol == "finetune":
        after = partial(save, run, int(state.step))
        result = finetune(run, state, queries, log_progress, after)
    else:
        result = probe_features(run, state, bank, queries, protocol)
    return {"protocol": protocol, "step": int(state.step), **result}


def queries_of(run: Run, protocol: str) -> Source:
    """Opens the evaluation data of a protocol; all but "generation" need labels.

    Raises:
      UserError: the training data is missing, or has no labels.
    """
    bank = run.data.source
    config = run.config
    need(bank, protocol, config)
    if protocol == "generation":
        generation.check(run)
        return held_out(config, run.data_info)
    if bank.classes is None:
        raise ConfigError(
            "config.data.source",
            config.data.source,
            f"{bank.name} has no labels, which a probe needs",
            "name a labeled data set with --config.data.name or --config.data.path",
        )
    return evaluation_source(config, run.data_info, bank.classes)


def probe_features(
    run: Run, state: TrainState, bank: Source, queries: Source, protocol: str
) -> dict[str, Any]:
    """Embeds both sources and applies a protocol of `FROZEN` to the features."""
    features = Features(run.method.embed, run.mesh, run.config.eval.batch_size)
    both = [features.whole(state, source, log_progress(source.name)) for source in (bank, queries)]
    pairs: list[Any] = [(embedded.features, embedded.labels) for embedded in both]
    assert bank.classes is not None
    evaluate_features = FROZEN.get(protocol) or plugins.resolve("--protocol", protocol, "evaluate")
    result = evaluate_features(run.config, run.mesh, len(bank.classes), *pairs)
    result["unreadable_examples"] = sum(embedded.unreadable for embedded in both)
    return result


def run_knn(
    config: Config, mesh: Mesh, classes: int, train_pair: Pair, test_pair: Pair
) -> dict[str, Any]:
    """Applies the kNN protocol (`jssl.evals.knn`)."""
    (bank, bank_labels) = train_pair
    (queries, labels) = test_pair
    section = config.eval
    top1 = knn.top1(
        bank,
        bank_labels,
        queries,
        labels,
        classes=classes,
        k=section.knn_k,
        temperature=section.knn_temperature,
        mesh=mesh,
        chunk=section.batch_size,
    )
    return {
        "top1": top1,
        "n_train": int((bank_labels >= 0).sum()),
        "n_test": int((labels >= 0).sum()),
    }


def run_linear(
    config: Config, mesh: Mesh, classes: int, train_pair: Pair, test_pair: Pair
) -> dict[str, Any]:
    """Applies the linear protocol (`jssl.evals.linear`)."""
    section = config.eval
    return linear.probe(
        *train_pair,
        *test_pair,
        classes=classes,
        lrs=section.linear_lrs,
        weight_decays=section.linear_weight_decays,
        epochs=section.linear_epochs,
        batch_size=section.linear_batch_size,
        val_fraction=section.linear_val_fraction,
        standardize=section.linear_standardize,
        seed=config.seed,
        mesh=mesh,
        progress=log_progress("linear probe, epochs"),
    )


def run_lowshot(
    config: Config, mesh: Mesh, classes: int, train_pair: Pair, test_pair: Pair
) -> dict[str, Any]:
    """Applies the low-shot protocol (`jssl.evals.lowshot`)."""
    section = config.eval
    return lowshot.probe(
        *train_pair,
        *test_pair,
        classes=classes,
        per_class=section.lowshot_per_class,
        share=section.label_fraction,
        seeds=section.lowshot_seeds,
        mesh=mesh,
        progress=log_progress("low-shot probe, draws"),
        lrs=section.linear_lrs,
        weight_decays=section.linear_weight_decays,
        epochs=section.lowshot_epochs,
        batch_size=section.linear_batch_size,
        val_fraction=section.linear_val_fraction,
        standardize=section.linear_standardize,
    )


# (config, mesh, number of classes, training features, test features) -> JSON values
Protocol = Callable[[Config, Mesh, int, Pair, Pair], dict[str, Any]]
PROTOCOLS: dict[str, Protocol] = {"knn": run_knn, "linear": run_linear}
FROZEN = PROTOCOLS | {"lowshot": run_lowshot}  # protocols of features; the others need the run
KNOWN = (*FROZEN, "finetune", "generation", *language.PROTOCOLS)


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Evaluates the run in --workdir."""
    run_dir, config = open_workdir(args, require(args, "workdir", "eval"), overrides)
    save = saver(run_dir, args["out"], args["format"])
    if args["out"] and args["protocol"] != "finetune":
        raise ConfigError("out", args["out"], "is for --protocol=finetune", "leave it out")
    return evaluate(config, run_dir, args["protocol"], args["random-init"], args["step"], save)


def open_workdir(
    args: Args, workdir: str, overrides: Overrides
) -> tuple[RunFolder, ml_collections.ConfigDict]:
    """Returns the folder of a run and its config with the overrides of the command line.

    The modules of --config and --method may be imported then.

    Raises:
      UserError: there is no run, or an override changes a key that training has fixed.
    """
    if args["config"]:
        load(args["config"])
    trust.name(*args["method"])
    run_dir = RunFolder(workdir)
    config = run_dir.config
    change_free_keys(config, overrides)
    return run_dir, config


def saver(run_dir: RunFolder, out: str, kind: str) -> Callable[[Run, int, TrainState], None]:
    """Returns f(run, step, tuned), which writes the fine-tuned classifier to `out`, if it is given.

    Raises:
      UserError: `kind` is not known, or `out` exists already.
    """
    if not out:
        return lambda run, step, tuned: None
    check_request(kind, out)
    if kind not in export.CLASSIFIERS:
        known = ", ".join(export.CLASSIFIERS)
        raise ConfigError("format", kind, "has no classifiers", f"use one of {known}")

    def save(run: Run, step: int, tuned: TrainState) -> None:
        classes = run.data.source.classes or ()
        weights = classifier(run.config, run.mesh, classes, step, tuned)
        if jax.process_index() == 0:
            export_weights(run_dir, weights, kind, out, run_dir.result() or {})

    return save


def change_free_keys(config: ml_collections.ConfigDict, overrides: Overrides) -> None:
    """Applies overrides to the stored config of a run, in place.

    Raises:
      UserError: an override changes a key that training has fixed.
    """
    for key in overrides:
        resolve_key(config, key)
        if not key.startswith(tuple(f"{section}." for section in FREE)):
            raise UserError(
                f"--config.{key} was fixed by training; only {', '.join(FREE)} can change"
            )
    override(config, overrides)
