"""The groups of metrics in TensorBoard, W&B and MLflow: train/loss, eval/knn_top1, perf/mfu.

Only the name of a metric decides its group. metrics.jsonl has the names without groups.
"""

from collections.abc import Mapping

EVAL = ("knn_", "linear_")  # first parts of the names of accuracies
PERF = ("mfu", "data_wait_fraction")
PERF_UNITS = ("_per_s", "_seconds", "_gib")  # last parts of the names of costs


def group_of(name: str) -> str:
    """Returns the group of a metric: "eval" for accuracies of evaluations, "perf" for speed and
    memory, and "train" for all others."""
    if name in PERF or name.endswith(PERF_UNITS):
        return "perf"
    return "eval" if name.startswith(EVAL) else "train"


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the same values by their names with groups, as in "train/loss"."""
    return {f"{group_of(name)}/{name}": value for name, value in values.items()}
