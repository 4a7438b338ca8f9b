"""Trackers: Weights & Biases and MLflow.

A run that is started again continues in the same run of the tracker; the workdir stores its id.
Both are sinks (`jssl.training.loggers`): their errors become warnings.
"""

import importlib
import importlib.util
import logging
import pathlib
import re
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl import errors
from jssl.config import ConfigError
from jssl.data import files
from jssl.training.groups import grouped

log = logging.getLogger("jssl")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LONGEST = 500  # characters; MLflow refuses longer parameters


def need(package: str, value: str) -> None:
    """Raises `UserError` unless the package of ``log.<package>`` is installed."""
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"config.log.{package}",
            value,
            f"needs the {package} package",
            f"{errors.install(package)}, or set --config.log.{package}=''",
        )


class Wandb:
    """Scalars and pictures for Weights & Biases, in `project`.

    The id is made here, so that it exists even if the process ends before the server answers. The
    server ignores steps that are run again.

    W&B takes steps in ascending order only. A picture comes before the metrics of the recorder's
    last visit, so it waits until its own step is complete.
    """

    def __init__(self, project: str, workdir: pathlib.Path, config: dict[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        run_id = kept(workdir / "wandb_id") or keep(workdir / "wandb_id", uuid.uuid4().hex[:12])
        self.image = wandb.Image
        self.waiting: dict[int, dict[str, Any]] = {}  # {step: pictures}
        self.exit_code = 1
        self.run = wandb.init(
            project=project,
            dir=str(workdir),
            name=workdir.name,
            id=run_id,
            resume="allow",
            config=config,
        )

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self._log_pictures(before=step)
        self.run.log(grouped(values) | self.waiting.pop(step, {}), step=step)

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Keeps pictures, {name: uint8 [H, W, 3]}, until metrics of that step or a later one."""
        images = {f"pictures/{name}": self.image(picture) for name, picture in pictures.items()}
        self.waiting.setdefault(step, {}).update(images)

    def _log_pictures(self, before: float = float("inf")) -> None:
        for step in sorted(step for step in self.waiting if step < before):
            self.run.log(self.waiting.pop(step), step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: the steps of W&B only increase, and it has the later ones already."""

    def end(self) -> None:
        """Marks the run as finished; a run that is only closed counts as failed."""
        self.exit_code = 0

    def close(self) -> None:
        """Uploads the rest."""
        self._log_pictures()
        self.run.finish(exit_code=self.exit_code)


class Mlflow:
    """Scalars and pictures for MLflow, in the experiment of that name.

    MLFLOW_TRACKING_URI is the address of MLflow. Its parameters cannot change: those of a run that
    continues are the ones with which it began.
    """

    def __init__(self, experiment: str, workdir: pathlib.Path, config: dict[str, Any]) -> None:
        mlflow = importlib.import_module("mlflow")
        self.mlflow = mlflow
        self.status = "KILLED"
        if self._continues(kept(workdir / "mlflow_id")):
            return
        mlflow.set_experiment(experiment)
        run = mlflow.start_run(run_name=workdir.name)
        keep(workdir / "mlflow_id", run.info.run_id)
        parameters = {key: str(value)[:LONGEST] for key, value in flat(config).items()}
        mlflow.log_params(parameters)

    def _continues(self, run_id: str) -> bool:
        """Whether there is a run of that id, which then goes on; "" is no id."""
        if not run_id:
            return False
        try:
            self.mlflow.start_run(run_id=run_id)
        except self.mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("MLflow has no run %s, the one of this workdir: a new one begins", run_id)
            return False
        return True

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.mlflow.log_metrics(grouped(values), step=step)

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Uploads pictures, {name: uint8 [H, W, 3]}."""
        for name, picture in pictures.items():
            self.mlflow.log_image(picture, key=name, step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: MLflow keeps both values of a step that is run again."""

    def end(self) -> None:
        """Marks the run as finished; a run that is only closed counts as killed."""
        self.status = "FINISHED"

    def close(self) -> None:
        """Ends the run in MLflow."""
        self.mlflow.end_run(self.status)


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flattens nested dicts to {"optim.lr": 0.3, ...}."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves.update(flat(value, f"{path}{key}."))
        else:
            leaves[f"{path}{key}"] = value
    return leaves


def kept(path: pathlib.Path) -> str:
    """Reads an id from a file of the workdir; "" if there is no valid id."""
    try:
        text = files.read_bytes(path, limit=1000).decode("ascii", "replace").strip()
    except (OSError, files.Damaged, files.Unreachable):
        return ""
    return text if ID.fullmatch(text) else ""


def keep(path: pathlib.Path, known: str) -> str:
    """Writes an id and returns it."""
    try:
        files.replace(path, known + "\n")
    except OSError as error:
        log.warning("%s cannot be written (%s): a restart is another run", path, error.strerror)
    return known
