"""`jssl eval`: what the encoder of a finished or running workdir is worth."""

from jssl.config import Config, UserError, call_with_section, suggest
from jssl.data import DataConfig
from jssl.data.sources.absent import need
from jssl.evals import knn, language, linear, lowshot
from jssl.evals.features import Features
from jssl.evals.finetune import finetune
from jssl.evals.online import evaluation_source, held_out
from jssl.log import log_progress
from jssl.training.setup import setup_run
from jssl.workdir.checkpoint import Checkpoints
from jssl.workdir.run_folder import mark, recorded_info


def evaluate(tree, workdir, protocol: str, untrained: bool = False) -> dict:
    """The JSON result of `protocol` for the newest checkpoint of `workdir`, or for the encoder as
    its run began (`untrained`; step 0).

    Raises `UserError` for an unknown protocol, a data set without labels, a workdir without a
    checkpoint.
    """
    if protocol not in KNOWN:
        raise UserError(f"--protocol={protocol} is unknown; {suggest(protocol, KNOWN)}")
    config = Config(tree)
    info = recorded_info(workdir)
    speaks = protocol in language.PROTOCOLS
    held_text = None
    if speaks and (protocol == "perplexity" or not config.eval.prompt):
        held_text = DataConfig(held_out(config, info), False, 0, 0.0)  # all that is needed
    run = setup_run(config, source=held_text, data_info=info, training=False)
    bank = run.data.source
    if not speaks:
        need(bank, protocol, config)
    if bank.classes is None and not speaks:
        raise UserError(
            f"config.data.source={config.data.source!r} ({bank.name}) has no labels, which a probe "
            "needs; name a labelled data set with --config.data..."
        )
    queries = bank if speaks else evaluation_source(config, info, bank.classes)
    given = {"workdir": workdir, "read_only": True, "mark": mark(workdir)}
    saves = call_with_section(Checkpoints, config.checkpoint, "checkpoint", **given)
    state = run.init() if untrained else saves.restore(run.shapes)
    if state is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train it first")
    state = state.replace(opt_state=None)  # its memory is free for what follows
    if speaks:
        found = language.evaluate(run, state, queries, protocol, log_progress)
    elif protocol == "finetune":
        found = finetune(run, state, queries, log_progress)
    else:
        features = Features(run.method.embed, run.mesh, config.eval.batch_size)
        both = [
            features.whole(state, source, log_progress(source.name)) for source in (bank, queries)
        ]
        pairs = [(read.features, read.labels) for read in both]
        found = FROZEN[protocol](config, run.mesh, len(bank.classes), *pairs)
        found["unreadable_examples"] = sum(read.unreadable for read in both)
    return {"protocol": protocol, "step": int(state.step), **found}


def run_knn(config, mesh, classes, train_pair, test_pair) -> dict:
    (bank, known) = train_pair
    (asked, labels) = test_pair
    section = config.eval
    top1 = knn.top1(
        bank,
        known,
        asked,
        labels,
        classes=classes,
        k=section.knn_k,
        temperature=section.knn_temperature,
        mesh=mesh,
        chunk=section.batch_size,
    )
    return {"top1": top1, "n_train": int((known >= 0).sum()), "n_test": int((labels >= 0).sum())}


def run_linear(config, mesh, classes, train_pair, test_pair) -> dict:
    section = config.eval
    return linear.probe(
        *train_pair,
        *test_pair,
        classes=classes,
        lrs=section.linear_lrs,
        weight_decays=section.linear_weight_decays,
        epochs=section.linear_epochs,
        batch_size=section.linear_batch_size,
        held_out=section.linear_val_fraction,
        standardize=section.linear_standardize,
        seed=config.seed,
        mesh=mesh,
        progress=log_progress("linear probe, epochs"),
    )


def run_lowshot(config, mesh, classes, train_pair, test_pair) -> dict:
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
        held_out=section.linear_val_fraction,
        standardize=section.linear_standardize,
    )


PROTOCOLS = {"knn": run_knn, "linear": run_linear}
FROZEN = PROTOCOLS | {"lowshot": run_lowshot}  # of features; the others need the run itself
KNOWN = (*FROZEN, "finetune", *language.PROTOCOLS)
