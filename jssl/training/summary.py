"""Results as JSON, and the lines that a run logs at its beginning and at its end."""

from __future__ import annotations

import math
import os
import shlex
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from jssl.training.setup import Run


def as_json(values: Any) -> Any:
    """Returns a copy that is valid JSON: a number that is not finite becomes None.

    In a dict a note gives the reason: {"loss": nan} becomes {"loss": None, "loss_note": "not finite
    (nan)"}.
    """
    if isinstance(values, dict):
        plain = {}
        for key, value in values.items():
            plain[key] = as_json(value)
            if isinstance(value, float) and not math.isfinite(value):
                plain[f"{key}_note"] = f"not finite ({value})"
        return plain
    if isinstance(values, list | tuple):
        return [as_json(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def beginning(run: Run, start: int, folder: str | os.PathLike[str]) -> list[str]:
    """Formats lines about examples and labels, parameters, devices and memory, and steps."""
    config = run.config
    source = run.data.source
    labels = "no labels"
    if source.classes is not None:
        labels = f"{len(source.classes):,} classes, by {getattr(source, 'labels_from', 'the data')}"
    trained = count(run.shapes.params)
    encoder = count(run.shapes.params["encoder"]) if "encoder" in run.shapes.params else trained
    devices = run.mesh.devices.flat
    kind = devices[0].device_kind
    each = sum(on_a_device(leaf) for leaf in jax.tree.leaves(run.shapes))
    epochs = config.steps * config.batch_size / len(source)
    goes_on = f", goes on after step {start:,}" if start else ""
    return [
        f"{source.name}: {len(source):,} examples, {labels}",
        f"{config.method}: {trained:,} parameters, {encoder:,} of them in the encoder",
        f"{len(devices)} x {kind} ({mesh_of(run.mesh)}): the state takes {size(each)} on each, "
        f"{size(free(run.mesh.local_devices[0]))} free",
        f"{config.steps:,} steps of {config.batch_size:,} examples, {epochs:,.3g} passes over them"
        f"{goes_on}; in {folder}",
    ]


def ending(run: Run, folder: str | os.PathLike[str], result: dict[str, Any]) -> list[str]:
    """Formats lines about the result, its files, and three commands to run next."""
    config = run.config
    shown = {"loss": result["loss"], "kNN": result["knn_top1"], "linear": result["linear_top1"]}
    figures = [f"{name} {value:.4f}" for name, value in shown.items() if value is not None]
    if result["dropped_metrics"]:
        figures.append(f"{result['dropped_metrics']:,} records of metrics were dropped")
    where = shlex.quote(str(folder))
    paths = [f"checkpoints: {where}/checkpoints", f"metrics: {where}/metrics.jsonl"]
    if config.log.tensorboard:
        paths.append(f"TensorBoard: {where}/tensorboard")
    if export := result["export"]:
        paths.append(f"encoder for {export['format']}: {where}/{export['folder']}")
    done = ", ".join([f"step {result['step']:,}", *figures])
    lines = [f"done: {done}"]
    if best := result["best"]:
        lines.append(
            f"best checkpoint: {where}/{best['checkpoint']}, {best['probe']} {best['value']:.4f}; "
            "jssl eval --step=best takes it"
        )
    lines += [result[key] for key in ("early_stop", "trend") if result[key]]
    lines += ["; ".join(paths), "what next:"]
    return lines + [f"  jssl {words}" for words in commands(run, where)]


def commands(run: Run, where: str) -> list[str]:
    """Returns three commands, without the word "jssl", for the run in the folder `where`."""
    go = f"eval --workdir={where} --protocol="
    if run.data_info.modality == "text":
        protocol = "generate" if run.config.method == "gpt" else "fill-mask"
        return [f"{go}perplexity", f"{go}{protocol}", f"{go}finetune --config.data.path=LABELED"]
    if run.data.source.classes is None:
        labels = " --config.data.path=LABELED"
        return [f"{go}{name}{labels}" for name in ("knn", "linear", "finetune")]
    return [f"{go}{name}" for name in ("linear", "lowshot", "finetune")]


def count(tree: Any) -> int:
    """Counts the elements of all arrays of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def on_a_device(leaf: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of an array that one device holds."""
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def free(device: jax.Device) -> float:  # pyright: ignore[reportInvalidTypeForm] - it is a class
    """Returns the free bytes of the device, or of the machine if the device has no own memory.

    NaN if the system does not report them.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.nan


def size(count: float) -> str:
    """Formats bytes as "1.5 GB"."""
    if math.isnan(count):
        return "unknown memory"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def mesh_of(devices: jax.sharding.Mesh) -> str:
    """Formats the axes of a mesh above size 1, as "data 8, tensor 2"; else "one device"."""
    axes = [f"{name} {parts}" for name, parts in devices.shape.items() if parts > 1]
    return ", ".join(axes) or "one device"
