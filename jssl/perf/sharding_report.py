"""The report of `jssl plan`: the sharding of every array, and the numbers of the compiled step."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import PartitionSpec
from rich.console import Console
from rich.table import Table

SMALL = 2**16  # bytes; smaller arrays that every device holds whole share one line


def rows(shapes: Any) -> list[dict[str, Any]]:
    """Groups similar arrays of a state; one row for each group.

    Args:
      shapes: a tree of ShapeDtypeStructs with shardings.

    Returns:
      [{"arrays": a path with * for numbers, "count", "dtype", "placed": the mesh axes of each
      dimension, "largest": a shape, "bytes_per_device"}, ...]
    """
    groups = defaultdict(list)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        spec = leaf.sharding.spec
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        name = re.sub(r"\d+(?=/|_|$)", "*", name)
        if not any(spec) and math.prod(leaf.shape) * leaf.dtype.itemsize < SMALL:
            name = f"{name.partition('/')[0]}: small ones"
        groups[name, str(leaf.dtype), placed(spec)].append(leaf)
    return [
        {
            "arrays": name,
            "count": len(leaves),
            "dtype": dtype,
            "placed": where,
            "largest": list(max((leaf.shape for leaf in leaves), key=math.prod)),
            "bytes_per_device": sum(map(bytes_per_device, leaves)),
        }
        for (name, dtype, where), leaves in groups.items()
    ]


def placed(spec: PartitionSpec) -> str:
    """Formats P("fsdp", "tensor") as "fsdp, tensor"; "-" for a dimension that is not split."""
    axes = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(axes) if any(spec) else "whole everywhere"


def bytes_per_device(leaf: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of an array that one device holds."""
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def show(result: dict[str, Any], places: list[dict[str, Any]]) -> None:
    """Prints the sharding and the result of the plan to stderr."""
    console = Console(stderr=True, highlight=False)
    console.width = max(console.width, 120)  # a file has no width of its own
    table = Table(title="placement", title_justify="left", box=None, pad_edge=False)
    for name in ("arrays", "count", "largest", "dtype", "placed", "per device"):
        table.add_column(name, justify="right" if name in ("count", "per device") else "left")
    for row in sorted(places, key=lambda row: -row["bytes_per_device"]):
        size = " x ".join(map(str, row["largest"])) or "scalar"
        table.add_row(
            row["arrays"],
            str(row["count"]),
            size,
            row["dtype"],
            row["placed"],
            format_si(row["bytes_per_device"], 1024) + "B",
        )
    console.print(table)
    if moved := result.get("moved"):
        console.print(moved_table(moved, result["traffic"]))
    for name, text in lines(result):
        console.print(f"{name:19}{text}")


def moved_table(moved: dict[str, Any], traffic: int, rows: int = 10) -> Table:
    """The parts of a step and its operations that read and write the most bytes."""
    table = Table(title="memory traffic", title_justify="left", box=None, pad_edge=False)
    for name in ("bytes", "share", "times", "operation", "largest result"):
        table.add_column(name, justify="right" if name in ("bytes", "share", "times") else "left")
    for name, size in moved["parts"].items():
        table.add_row(format_si(size) + "B", f"{size / traffic:.0%}", "", f"all {name}", "")
    for one in moved["largest"][:rows]:
        table.add_row(
            format_si(one["bytes"]) + "B",
            f"{one['bytes'] / traffic:.0%}",
            str(one["times"]),
            f"{one['source'] or '-'} ({one['kind']})",
            one["array"],
        )
    return table


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (name, text) for the entries of the result of a plan."""
    yield "mesh", ", ".join(f"{axis} {n}" for axis, n in found["mesh"].items())
    yield "batch", f"{found['batch_size']:,}: {found['batch_size'] / found['devices']:g} a device"
    data = f"{found['examples']:,} examples (--examples)"
    yield "data", data + f", {found['vocab']:,} ids (--vocab)" * bool(found["vocab"])
    yield "parameters", format_si(found["parameters"])
    step, each = (format_si(found[f"flops_per_{what}"]) for what in ("step", "device"))
    yield "FLOPs", f"{step} a step, {each} a device"
    fits = found.get("fits")
    each = format_si(found["bytes_per_device"], 1024) + "B a device"
    if "basis" in found:
        yield "basis", found["basis"]
        each += f" of {format_si(found['memory'], 1024)}B for the state alone"
        each += ": does not fit" if fits is False else ""
    elif fits is not None:
        word = "fits" if fits else "does not fit"
        each += f" of {format_si(found['memory'], 1024)}B: {word}"
    if found.get("largest_batch"):
        each += f"; the largest batch that does: about {found['largest_batch']:,}"
    yield "memory", each
    for collective in found["collectives"]:
        size = format_si(collective["bytes"], 1024)
        text = f"{collective['times']} of them move {size}B among {collective['group']}"
        text += ", meanwhile" * collective["overlaps"]
        yield collective["kind"], text
    if "seconds" in found:
        parts = ", ".join(f"{part} {1e3 * s:.3g}" for part, s in found["seconds"].items())
        yield "roofline", f"{1e3 * found['step_seconds']:.3g} ms ({parts})"
        hours = f"at least {found['hours']:.3g} hours"
        yield "run", f"{found['steps']:,} steps: {hours}, {found['chip_hours']:,.0f} chip-hours"
    if "efficiency" in found:
        shares = (f"{n} chips {share:.0%}" for n, share in found["efficiency"].items())
        yield "efficiency", ", ".join(shares)


def format_si(number: float, base: int = 1000) -> str:
    """Formats 12345678 as "12.3 M", with Ki, Mi, ... for `base` 1024."""
    units = ("", "K", "M", "G", "T", "P", "E")
    power = min(int(math.log(number, base)), len(units) - 1) if number >= 1 else 0
    return f"{number / base**power:.3g} {units[power]}{'i' * (base == 1024 and power > 0)}".strip()
