"""Trackers: Weights & Biases and MLflow.

A run that is started again continues in the same run of the tracker; the workdir stores its id.
Both are sinks (`jssl.training.loggers`): their errors become warnings.
"""

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
    """Scalars for Weights & Biases, in `project`.

    The id is made here, so that it exists even if the process ends before the server answers. The
    server ignores steps that are run again.
    """

    def __init__(self, project: str, workdir: pathlib.Path, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] - an extra

        run_id = kept(workdir / "wandb_id") or keep(workdir / "wandb_id", uuid.uuid4().hex[:12])
        self.run = wandb.init(
            project=project,
            dir=str(workdir),
            name=workdir.name,
            id=run_id,
            resume="allow",
            config=config,
        )

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Uploads pictures, {name: uint8 [H, W, 3]}."""
        import wandb  # pyright: ignore[reportMissingImports] - an extra

        images = {f"pictures/{name}": wandb.Image(x) for name, x in pictures.items()}
        self.run.log(images, step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: the steps of W&B only increase, and it has the later ones already."""

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """Scalars for MLflow, in the experiment of that name; MLFLOW_TRACKING_URI is its address."""

    def __init__(self, experiment: str, workdir: pathlib.Path, config: dict[str, Any]) -> None:
        import mlflow  # pyright: ignore[reportMissingImports] - an extra

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

    def __call__(self, step: int, values: dict[str, float]) -> None:
        self.mlflow.log_metrics(values, step=step)

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Uploads pictures, {name: uint8 [H, W, 3]}."""
        for name, picture in pictures.items():
            self.mlflow.log_image(picture, key=name, step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: MLflow keeps both values of a step that is run again."""

    def close(self) -> None:
        self.mlflow.end_run()


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
