"""The folder export/ of a finished run: its encoder, in a form that other libraries load."""

import logging
from collections.abc import Mapping
from typing import Any

import jax

from jssl.core import TrainState
from jssl.interop.export_run import export_weights
from jssl.interop.run_weights import evaluated_encoder
from jssl.training.setup import Run
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")
NAME = "export"


def write_export(
    run: Run, folder: RunFolder, state: TrainState, result: Mapping[str, Any]
) -> dict[str, str] | None:
    """Writes the encoder that evaluations use to <workdir>/export. All processes call it.

    An error is a warning: the checkpoint has the encoder too.

    Args:
      run: the run.
      folder: its workdir.
      state: its last state.
      result: so far; the card of the folder has its accuracies.

    Returns:
      {"folder": "export", "format": ...}; None if nothing was written.
    """
    kind = run.config.checkpoint.export
    if kind == "none":
        return None
    try:
        if "encoder" not in state.params:  # of a method outside jssl
            return None
        weights = evaluated_encoder(run.config, run.mesh, run.method.embeds, state)
        if jax.process_index() != 0:
            return None  # the result is that of the first process
        done = export_weights(folder, weights, kind, folder.path / NAME, result, replace=True)
    except Exception as error:  # whatever it is, the run is done and saved
        log.warning("no %s: %s; try jssl export later", folder.path / NAME, error)
        return None
    return {"folder": NAME, "format": done["format"]}
