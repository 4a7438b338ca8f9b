"""The state of a run, from its workdir, for evaluations and programs."""

from jssl.config import ConfigError
from jssl.core import TrainState
from jssl.training.setup import Run
from jssl.workdir.best import restore_named
from jssl.workdir.run_folder import RunFolder


def load_state(
    run: Run, run_dir: RunFolder, random_init: bool = False, step: str = "last"
) -> TrainState:
    """Restores a checkpoint, or makes the state at step 0, without optimizer state.

    Args:
      run: the run.
      run_dir: its folder.
      random_init: whether to make the state at step 0.
      step: which checkpoint (`find_step`): "best", "last" or a number.

    Raises:
      UserError: there is no checkpoint, or not this one.
    """
    checkpoints = run_dir.checkpoints(run.config.checkpoint)
    state = run.init() if random_init else restore_named(checkpoints, run.shapes, step)
    if state is None:
        raise ConfigError("workdir", run_dir.path, "holds no checkpoint yet", "train it first")
    return state.replace(opt_state=None)  # frees its memory for the evaluation
