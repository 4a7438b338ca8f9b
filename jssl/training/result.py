"""The result of a run."""

import hashlib
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jssl.config import Config, UserError
from jssl.core import Params, TrainState
from jssl.data.loader import Feed
from jssl.evals.online import OnlineProbes
from jssl.parallel import agreement
from jssl.parallel.mesh import replicated
from jssl.training import observers, summary, trend
from jssl.workdir.best import best_checkpoint
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")


def check_updates(state: TrainState, config: Config) -> None:
    """Raises `UserError` if every update was skipped: the weights are those of step 0."""
    if int(state.skipped[1]) >= int(state.step) > 0:
        raise UserError(
            f"none of the {int(state.step)} updates was finite: nothing was learned; try a lower "
            f"--config.optim.lr than {config.optim.lr:g} in another --workdir, and look at the data"
        )


def outcome(
    state: TrainState,
    recorder: observers.Recorder,
    probes: OnlineProbes,
    feeds: Sequence[Feed],
) -> dict[str, Any]:
    """Returns the result of a run at its last step, as JSON values.

    An unknown number is None; a note gives the reason.
    """
    step = int(state.step)
    has_loss = recorder.seen.get("loss") is not None
    scores = probes.found if probes.at == step else {}
    notes = {} if has_loss else {"loss_note": "not known: metrics.jsonl has no loss of this run"}
    if notes:
        log.warning("the loss of step %d is not known: metrics.jsonl was lost", step)
    return summary.as_json(
        {
            "step": step,
            "loss": recorder.last.get("loss"),
            **notes,
            "examples_per_s": round(recorder.examples_per_s(), 1),
            "params_sha256": params_sha256(state.params),
            "knn_top1": scores.get("knn_top1"),
            "linear_top1": scores.get("linear_top1"),
            "damaged_examples": len({i for feed in feeds for i in feed.damaged}),
            "skipped_updates": int(state.skipped[1]),
            "failed_evaluations": probes.failed,
            "dropped_metrics": recorder.dropped(),
        }
    )


def ending_facts(
    folder: pathlib.Path, step: int, checkpoints: Checkpoints, probes: OnlineProbes
) -> dict[str, Any]:
    """Returns what the result says beside the numbers of the last step; None: nothing to say.

    Returns:
      {"best": see `best_checkpoint`, "early_stop": why the run ended early, "trend": a sentence
      about a loss and a probe that moved in opposite directions}.
    """
    return {
        "best": best_checkpoint(checkpoints),
        "early_stop": probes.ended or None,
        "trend": agreement.first(lambda: trend.of_run(folder, step)) or None,
    }


def params_sha256(params: Params) -> str:
    """Returns the SHA-256 of path, dtype, shape and bytes of all parameters, sorted by path."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ):
        value = np.asarray(jax.device_put(leaf, replicated(leaf.sharding.mesh)))
        digest.update(f"{path} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()
