"""What a workdir records of its run, as plain values, and what differs between several runs."""

import math
import os
from typing import Any, NamedTuple

from jssl.config import ConfigError, flatten
from jssl.data import files
from jssl.workdir.run_folder import RunFolder

Series = list[tuple[int, float]]  # (step, value), in the order of steps
FIGURES = {  # {name: what it means}
    "status": "done, or not done",
    "step": "last step in metrics.jsonl",
    "steps": "steps of the config",
    "loss": "last loss",
    "knn_top1": "last accuracy of kNN",
    "linear_top1": "last accuracy of the linear probe",
    "best_step": "step of the best accuracy of kNN",
    "best_knn_top1": "best accuracy of kNN",
    "examples_per_s": "median over the log records",
    "data_wait_fraction": "mean over the log records",
    "skipped_updates": "updates that were not finite",
    "train_seconds": "time of the steps, without evaluations and saves",
    "eval_seconds": "time of the evaluations",
}


class Record(NamedTuple):
    """What a workdir records of its run.

    Attributes:
      workdir: the folder, as the user wrote it.
      config: {"config.optim.lr": 0.3, ...}.
      stored: the content of config.json.
      series: {metric: its finite values by step}.
      result: the content of result.json; None before the end of the run.
    """

    workdir: str
    config: dict[str, Any]
    stored: dict[str, Any]
    series: dict[str, Series]
    result: dict[str, Any] | None


def read_record(workdir: str | os.PathLike[str]) -> Record:
    """Reads a workdir; a run may be active there.

    Raises:
      UserError: the folder holds no run, or a file of it is damaged.
    """
    folder = RunFolder(workdir)
    config = flatten(folder.recorded_config())
    try:
        rows = folder.metrics()
    except (files.Damaged, OSError) as error:
        raise ConfigError(
            "workdir",
            folder.path,
            f"metrics.jsonl cannot be read ({files.one_line(error)})",
            "restore it, or move it out of the way",
        ) from None
    return Record(os.fspath(workdir), config, folder.stored(), series_of(rows), folder.result())


def series_of(rows: list[dict[str, Any]]) -> dict[str, Series]:
    """Returns the finite values of each metric, ordered by step; the later of two counts."""
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and is_number and math.isfinite(value):
                values.setdefault(name, {})[row["step"]] = float(value)
    return {name: sorted(by_step.items()) for name, by_step in values.items()}


def figures(record: Record) -> dict[str, Any]:
    """Returns the `FIGURES` of a run; None: not known."""
    series = record.series
    knn = series.get("knn_top1", [])
    best = max(knn, key=lambda point: point[1], default=(None, None))
    rates = sorted(value for _, value in series.get("examples_per_s", []))
    waits = [value for _, value in series.get("data_wait_fraction", [])]
    evaluations = [value for _, value in series.get("eval_seconds", [])]
    last_step = max((points[-1][0] for points in series.values()), default=0)
    result = record.result or {}
    return {
        "status": "not done" if record.result is None else "done",
        "step": max(last_step, result.get("step") or 0),
        "steps": record.config.get("config.steps"),
        "loss": last(series, "loss"),
        "knn_top1": last(series, "knn_top1"),
        "linear_top1": last(series, "linear_top1"),
        "best_step": best[0],
        "best_knn_top1": best[1],
        "examples_per_s": rates[len(rates) // 2] if rates else None,
        "data_wait_fraction": sum(waits) / len(waits) if waits else None,
        "skipped_updates": last(series, "skipped"),
        "train_seconds": train_seconds(record),
        "eval_seconds": sum(evaluations) if evaluations else None,
    }


def last(series: dict[str, Series], name: str) -> float | None:
    """Returns the last value of a metric; None if it has none."""
    points = series.get(name)
    return points[-1][1] if points else None


def train_seconds(record: Record) -> float | None:
    """Returns the time of all steps in seconds, from the examples per second of the log records.

    None if there are no records.
    """
    batch_size = record.config.get("config.batch_size")
    rates = [point for point in record.series.get("examples_per_s", []) if point[1] > 0]
    if not rates or not isinstance(batch_size, int):
        return None
    total = 0.0
    before = 0
    for step, rate in rates:
        total += (step - before) * batch_size / rate
        before = step
    return total


def differences(records: list[Record]) -> dict[str, list[Any]]:
    """Returns {"optim.lr": one value for each run} for the config keys that differ.

    A run that lacks the key has None.
    """
    names = {name for record in records for name in record.config}
    differing = {}
    for name in sorted(names):
        values = [record.config.get(name) for record in records]
        if any(value != values[0] for value in values):
            differing[name.removeprefix("config.")] = values
    return differing


def compared_figures(records: list[Record]) -> dict[str, list[Any]]:
    """Returns {figure: one value for each run} without the figures that no run has."""
    by_run = [figures(record) for record in records]
    rows = {name: [values[name] for values in by_run] for name in FIGURES}
    return {name: row for name, row in rows.items() if any(value is not None for value in row)}


def labels_of(records: list[Record]) -> list[str]:
    """Returns a short name of each run: the last folder of its path, or the whole path where two
    runs would have the same name."""
    names = [os.path.basename(os.path.abspath(record.workdir)) for record in records]
    paths = [record.workdir for record in records]
    return [
        name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)
    ]


def text_of(name: str, value: Any) -> str:
    """Formats a figure or a config value for a table: "-" for None."""
    if value is None:
        return "-"
    if name.endswith("_seconds"):
        return duration(value)
    if name == "examples_per_s":
        return f"{value:,.1f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if name in ("step", "steps", "best_step"):
        return f"{value:,}"
    return str(value)


def duration(seconds: float) -> str:
    """Formats seconds, as in "1:02:03" or "4.2 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
