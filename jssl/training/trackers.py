"""Trackers: Weights & Biases and MLflow. A run that is started again goes on in the same run of the
tracker, whose id is kept in the workdir. Both are sinks (`jssl.training.loggers`): whatever they
raise is a warning.
"""

import importlib.util
import logging
import pathlib
import re
import sys
import uuid

from jssl import errors
from jssl.config import UserError
from jssl.data import files

log = logging.getLogger("jssl")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LONGEST = 500  # characters of a parameter that MLflow takes


def need(package: str, value: str) -> None:
    """`UserError` unless the package of ``log.<package>`` is installed."""
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise UserError(
            f"config.log.{package}={value!r} needs the {package} package; "
            f"{errors.install(package)}, or set config.log.{package}=''"
        )


class Wandb:
    """Scalars for Weights & Biases, in `project`. Its ids are made here, so that a start that was
    killed before the server answered has one too. Steps that are run again are ignored there."""

    def __init__(self, project: str, workdir: pathlib.Path, config: dict):
        import wandb

        run_id = kept(workdir / "wandb_id") or keep(workdir / "wandb_id", uuid.uuid4().hex[:12])
        self.run = wandb.init(
            project=project,
            dir=str(workdir),
            name=workdir.name,
            id=run_id,
            resume="allow",
            config=config,
        )

    def __call__(self, step, values):
        self.run.log(values, step=step)

    def rewind(self, step):
        """W&B's steps only rise; it has these already."""

    def close(self):
        self.run.finish()


class Mlflow:
    """Scalars for MLflow, in the experiment of that name; MLFLOW_TRACKING_URI says where it is."""

    def __init__(self, experiment: str, workdir: pathlib.Path, config: dict):
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(experiment)
        run_id = kept(workdir / "mlflow_id")
        if run_id:
            mlflow.start_run(run_id=run_id)
            return
        run = mlflow.start_run(run_name=workdir.name)
        keep(workdir / "mlflow_id", run.info.run_id)
        parameters = {key: str(value)[:LONGEST] for key, value in flat(config).items()}
        mlflow.log_params(parameters)

    def __call__(self, step, values):
        self.mlflow.log_metrics(values, step=step)

    def rewind(self, step):
        """MLflow keeps both values of a step that is run again."""

    def close(self):
        self.mlflow.end_run()


def flat(config: dict, path: str = "") -> dict:
    """{"optim.lr": 0.3, ...} of nested dicts."""
    leaves = {}
    for key, value in config.items():
        name = f"{path}{key}"
        leaves.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return leaves


def kept(path: pathlib.Path) -> str:
    """The id in a file of the workdir; "" if there is none that could be one."""
    try:
        text = files.read_bytes(path, limit=1000).decode("ascii", "replace").strip()
    except (OSError, files.Damaged, files.Unreachable):
        return ""
    return text if ID.fullmatch(text) else ""


def keep(path: pathlib.Path, known: str) -> str:
    """Writes an id, and gives it back."""
    try:
        files.replace(path, known + "\n")
    except OSError as error:
        log.warning("%s cannot be written (%s): a restart is another run", path, error.strerror)
    return known
