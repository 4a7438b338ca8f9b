"""The state of a run, from its workdir, for evaluations and programs."""

from jssl.config import ConfigError
from jssl.core import TrainState
from jssl.training.setup import Run
from jssl.workdir.run_folder import RunFolder


def load_state(run: Run, run_dir: RunFolder, random_init: bool = False) -> TrainState:
    """Restores the newest checkpoint, or makes the state at step 0, without optimizer state.

    Raises:
      UserError: there is no checkpoint.
    """
    checkpoints = run_dir.checkpoints(run.config.checkpoint)
    state = run.init() if random_init else checkpoints.restore(run.shapes)
    if state is None:
        raise ConfigError("workdir", run_dir.path, "holds no checkpoint yet", "train it first")
    return state.replace(opt_state=None)  # frees its memory for the evaluation
