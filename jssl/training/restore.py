"""The state of a run, from its workdir, for evaluations and programs."""

import os

from jssl.config import UserError, call_with_section
from jssl.core import TrainState
from jssl.training.setup import Run
from jssl.workdir.checkpoint import Checkpoints
from jssl.workdir.run_folder import mark


def load_state(run: Run, workdir: str | os.PathLike[str], random_init: bool = False) -> TrainState:
    """Restores the newest checkpoint, or makes the state at step 0, without optimizer state.

    Raises:
      UserError: there is no checkpoint.
    """
    arguments = {"workdir": workdir, "read_only": True, "mark": mark(workdir)}
    saves = call_with_section(Checkpoints, run.config.checkpoint, "checkpoint", **arguments)
    state = run.init() if random_init else saves.restore(run.shapes)
    if state is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train it first")
    return state.replace(opt_state=None)  # frees its memory for the evaluation
