"""The parts of RESULTS.md that show the files of `beside.py` and `accelerator.py`."""

import statistics
from typing import Any

from step import table

Result = dict[str, Any]


def accelerators(found: list[Result]) -> str:
    """What accelerators do: ceilings, steps, PyTorch's steps, accuracy, variants."""
    parts = ["## Accelerators"]
    for run in found:
        groups = run["accelerator"]
        about = f"{run['device']}, commit {run['commit']}, {run['date']}, jax "
        parts += ["", f"`{run['command']}`, {about}{run['versions'].get('jax', 'unknown')}:"]
        for group, show in SHOWN.items():
            if group in groups:
                parts += ["", show(groups[group])]
        if run["left_out"]:
            parts += ["", f"Left out: {'; '.join(run['left_out'])}."]
    return "\n".join(parts)


def besides(found: list[Result]) -> str:
    """The step of jssl beside PyTorch's."""
    parts = ["## Beside PyTorch"]
    for run in found:
        rows = run["beside"]
        devices = sorted({row["device"] for row in rows.values() if "device" in row})
        torch = sorted({row["torch"] for row in rows.values() if "torch" in row})
        rounds = max(len(row.get("jssl", ())) for row in rows.values())
        parts += [
            "",
            f"`{run['command']}`, {', '.join(devices)}, commit {run['commit']}, {run['date']}, "
            f"jax {run['versions'].get('jax', 'unknown')}, torch {', '.join(torch) or '-'}: "
            f"milliseconds of a whole step in {rounds} rounds in alternation, minimum, median and "
            "maximum; the ratio is PyTorch's median by jssl's.",
            "",
            "| work | jssl | PyTorch | ratio |",
            "|---|---|---|---|",
        ]
        for name, row in rows.items():
            times = [row.get("jssl", []), row.get("peer", [])]
            cells = [
                f"{min(ms):,.1f}, {statistics.median(ms):,.1f}, {max(ms):,.1f}" if ms else "-"
                for ms in times
            ]
            both = all(times)
            ratio = statistics.median(times[1]) / statistics.median(times[0]) if both else None
            parts.append(f"| {name} | {' | '.join(cells)} | {f'{ratio:.2f}' if ratio else '-'} |")
    return "\n".join(parts)


def ceilings(rows: dict[str, Result]) -> str:
    """The device's own limits, in one line."""
    return "\n".join(
        f"Ceilings: {row['error']}."
        if "error" in row
        else f"Ceilings: {row['tflops_bf16']:,} TFLOP/s of a bfloat16 matrix product, "
        f"{row['copy_gb_s']:,} GB/s of a pass over memory."
        for row in rows.values()
    )


def peers(rows: dict[str, Result]) -> str:
    """The steps of PyTorch."""
    lines = ["| work in PyTorch | ms/step | examples or tokens/s | torch |", "|" + "---|" * 4]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | |")
        else:
            lines.append(
                f"| {name} | {row['ms']:.1f} | {row['items_per_s']:,.0f} | {row['torch']} |"
            )
    return "\n".join(lines)


def cifar(rows: dict[str, Result]) -> str:
    """Each seed of CIFAR-10, and their mean and deviation."""
    lines = ["| CIFAR-10 | kNN | linear | wall s | examples/s |", "|" + "---|" * 5]
    figures = []
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | | |")
            continue
        scores = [row["eval"][protocol]["top1"] for protocol in ("knn", "linear")]
        figures.append(scores)
        knn, linear = scores
        speed = f"{row['wall_seconds']:.0f} | {row['train']['examples_per_s']:,.0f}"
        lines.append(f"| {name} | {knn:.4f} | {linear:.4f} | {speed} |")
    if len(figures) > 1:
        both = " | ".join(
            f"{statistics.fmean(one):.4f} ± {statistics.stdev(one):.4f}"
            for one in zip(*figures, strict=True)
        )
        lines.append(f"| mean of {len(figures)} | {both} | | |")
    return "\n".join(lines)


def variants(works: dict[str, dict[str, list[Result]]]) -> str:
    """Each variant against the baseline of the same round."""
    lines = ["| work | variant | ms/step | of the baseline | compile s |", "|" + "---|" * 5]
    for work, ways in works.items():
        base = [row.get("ms_per_step") for row in ways.get("baseline", [])]
        for variant, rows in ways.items():
            times = [row.get("ms_per_step") for row in rows]
            shown = ", ".join("-" if ms is None else f"{ms:.1f}" for ms in times)
            ratios = [ms / one for ms, one in zip(times, base, strict=False) if ms and one]
            compiled = next((f"{row['compile_s']:.0f}" for row in rows if "compile_s" in row), "-")
            ratio = ", ".join(f"{ratio:.1%}" for ratio in ratios)
            lines.append(f"| {work} | {variant} | {shown} | {ratio or '-'} | {compiled} |")
    return "\n".join(lines)


SHOWN = {
    "ceilings": ceilings,
    "steps": table,
    "peers": peers,
    "cifar": cifar,
    "variants": variants,
    "flags": variants,
}
