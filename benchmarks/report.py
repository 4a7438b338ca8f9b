"""Writes benchmarks/RESULTS.md, and the demo's table in README.md, from benchmarks/results/*.json.

    python benchmarks/report.py

No figure is typed by hand: each comes from a file that a benchmark wrote, with its command, commit
and device beside it.
"""

import json
import pathlib
import statistics

import report_accelerator
import report_distill
import report_parity
from input_report import inputs
from step import table

from jssl.commands.demo import render
from jssl.commands.plan import whole_run
from jssl.perf import accelerators, roofline

HERE = pathlib.Path(__file__).parent
INTRO = """# Results

Made by `python benchmarks/report.py` from `benchmarks/results/*.json`; do not edit by hand.
"""


def runs(found: list[dict]) -> str:
    """Training runs: what they cost and what the encoder is worth."""
    lines = ["## Training runs", ""]
    lines += ["| command | steps | wall s | examples/s | kNN | linear | device | commit | date |"]
    lines += ["|" + "---|" * 9]
    for run in found:
        train, scores = run["train"], run["eval"]
        lines.append(
            f"| `{run['command']}` | {train['step']} | {run['wall_seconds']:.0f} | "
            f"{train['examples_per_s']:,.0f} | {scores['knn']['top1']:.4f} | "
            f"{scores['linear']['top1']:.4f} | {run['versions']['device']} | {run['commit']} | "
            f"{run['date']} |"
        )
    return "\n".join(lines)


ABOUT = {
    "full": "Every method on CIFAR-10, 50 epochs of batch 512, at its recipe's settings.",
    "small": (
        "Every method on a small task: a fifth of CIFAR-10, ResNet-10 of width 16 in float32, "
        "batch 128 (78 steps are an epoch). So short a run says nothing about which method is "
        "better; one that is not above `untrained`, an encoder of random weights, has not been "
        "shown to learn here."
    ),
}


def compared(found: list[dict]) -> str:
    """The methods side by side, a table for each task and device."""
    parts = ["## Methods"]
    groups = sorted({(run["task"], run["versions"]["device"]) for run in found})
    for task, device in groups:
        chosen = [r for r in found if (r["task"], r["versions"]["device"]) == (task, device)]
        flag = " --small" if task == "small" else ""
        command = f"`python benchmarks/methods.py --data=DATA --out=benchmarks/results{flag}`"
        parts += ["", f"{ABOUT[task]} Device: {device}. {command}", ""]
        columns = ("method", "steps", "kNN, last", "kNN, best", "linear", "wall s", "examples/s")
        parts += ["| " + " | ".join((*columns, "commit", "date")) + " |", "|" + "---|" * 9]
        for run in sorted(chosen, key=lambda run: -run["eval"]["knn"]["top1"]):
            best = max([*run["knn_history"].values(), run["eval"]["knn"]["top1"]])
            knn, linear = (f"{run['eval'][name]['top1']:.4f}" for name in ("knn", "linear"))
            parts.append(
                f"| {run['method']} | {run['train']['step']:,} | {knn} | {best:.4f} | {linear} | "
                f"{run['wall_seconds']:.0f} | {run['train']['examples_per_s']:,.0f} | "
                f"{run['commit']} | {run['date']} |"
            )
    return "\n".join(parts)


SIZES = {
    "full": "At the recipes' settings, a tokenizer of 8,192 pieces.",
    "small": (
        "Far smaller networks, images and budgets than the recipes', for two CPU cores: it shows "
        "whether pretraining helps there, and nothing about the published sizes."
    ),
}


def transfer(found: list[dict]) -> str:
    """What encoders are worth with and without pretraining."""
    parts = ["## With and without pretraining"]
    for size in sorted({run["size"] for run in found}):
        flag = " --small" if size == "small" else ""
        command = f"`python benchmarks/transfer.py --data=DATA --out=benchmarks/results{flag}`"
        parts += ["", f"{SIZES[size]} {command}. Several seeds: mean ± deviation.", ""]
        parts += ["| task | measured | pretrained | untrained | device | commit | date |"]
        parts += ["|" + "---|" * 7]
        for run in (run for run in found if run["size"] == size):
            where = f"{run['versions']['device']} | {run['commit']} | {run['date']}"
            for name, value in run["eval"].items():
                for key in ("top1", "perplexity", "bits_per_byte"):
                    if key in value["pretrained"][0]:
                        both = " | ".join(
                            spread([one[key] for one in value[start]])
                            for start in ("pretrained", "untrained")
                        )
                        said = f"{name} top-1" if key == "top1" else key.replace("_", " ")
                        if key == "bits_per_byte" and "bytes" not in value["pretrained"][0]:
                            said += ", 1 to 2 % too high"  # once it counted what is not predicted
                        parts.append(f"| {run['task']} | {said} | {both} | {where} |")
        parts += ["", "Commands:", ""]
        for run in (run for run in found if run["size"] == size):
            parts.append(f"- `{run['command']}` ({run['wall_seconds']:.0f} s), then")
            for protocol, command in run["evaluations"].items():
                parts.append(f"  - `{command}`{rates(run['validation_top1'][protocol])}")
    return "\n".join(parts)


def words(found: list[dict]) -> str:
    """What SST-2 needs no network for."""
    return "\n".join(
        f"For SST-2's figures above, without a network, logistic regression on which words a "
        f"sentence has (`{run['command']}`, {run['device']}, commit {run['commit']}, "
        f"{run['date']}): "
        + ", ".join(f"{name} {top1:.4f}" for name, top1 in run["words_alone"].items())
        + "."
        for run in found
    )


def rates(tried: dict) -> str:
    """What was tried on the validation split, of each start: rates and their accuracies."""
    told = [
        f"{start} " + ", ".join(f"{float(rate):.2g}: {top1:.3f}" for rate, top1 in found.items())
        for start, found in tried.items()
        if found
    ]
    return f"; rates by accuracy on the validation split: {'; '.join(told)}" if told else ""


def spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    many = f" ± {statistics.stdev(values):.4f} ({len(values)} seeds)" if values[1:] else ""
    return (f"{mean:.4f}" if mean < 10 else f"{mean:,.1f}") + many


def memory(found: list[dict]) -> str:
    """What chunks and GradCache save, by the compiler's own count."""
    parts = ["## Memory"]
    for run in found:
        parts += [
            "",
            f"`{run['command']}`, {run['device']}, commit {run['commit']}, {run['date']}:",
        ]
        loss, step = run["memory"]

        def gb(n):
            return f"{n / 1e9:.2f} GB"

        sizes = [gb(loss[name]) for name in ("chunked", "whole", "matrix_bytes")]
        parts += [
            "",
            f"- {loss['work']}: {sizes[0]} in chunks, {sizes[1]} with the whole matrix, which "
            f"alone is {sizes[2]}.",
            f"- {step['work']}: "
            + ", ".join(
                f"{gb(n)} in {parts_} micro-batch{'es' if parts_ != '1' else ''}"
                for parts_, n in step["micro_batches"].items()
            )
            + " of GradCache, with the gradient of the whole batch.",
        ]
    return "\n".join(parts)


def steps(found: list[dict]) -> str:
    """Step times; the commands stand in the JSON files."""
    parts = ["## Training steps, views included"]
    for run in found:
        about = f"{run['device']}, commit {run['commit']}, {run['date']}"
        parts += ["", f"{about}: `python benchmarks/step.py`", "", table(run["rows"])]
    return "\n".join(parts)


def plans(found: list[dict]) -> str:
    """What the compiler says of slices that are not here."""
    runs = [derived(run) for run in sorted(found, key=lambda run: (run["topology"], run["plan"]))]
    parts = ["## Plans", ""]
    parts += [
        "`python benchmarks/plans.py --out=benchmarks/results`: the true training step, compiled "
        "for a slice by `jssl plan`. Nothing here was run on a TPU. The columns of time are "
        "a roofline at peak rates, not a measurement. Of the links, some collectives run while the "
        "chip computes; for the exposed ones it waits. A step takes the largest of compute, memory "
        "and the other links, and the exposed links. A group of all chips sends along all axes of "
        "the torus, a smaller one along one. Efficiency is the share of a step without links, for "
        "8 to 256 chips with the same batch on each.",
        "",
    ]
    columns = ("recipe", "slice", "batch", "GiB a chip", "largest batch", "FLOPs a step",
               "compute ms", "memory ms", "links ms", "exposed ms", "step ms", "run, hours",
               "chip-hours", "efficiency, 8 to 256", "commit")  # fmt: skip
    parts += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    parts += [plan_row(run) for run in runs]
    for topology in sorted({run["topology"] for run in runs}):
        there = [run for run in runs if run["topology"] == topology]
        total = sum(max(run["seconds"].values()) for run in there)
        whole = sum(run["step_seconds"] for run in there)
        parts += [
            "",
            f"{topology}, the sum over {len(there)} recipes of the largest of compute, memory and "
            f"links: {1e3 * total:.1f} ms; of whole steps: {1e3 * whole:.1f} ms.",
        ]
    return "\n".join([*parts, "", *what_moves(runs)])


def derived(run: dict) -> dict:
    """A plan with the times that follow from its counts."""
    chip = accelerators.CHIPS[run["device"]]
    rings = roofline.rings(run["topology"])
    times = roofline.roofline(run, chip, run["devices"], rings)
    return run | times | whole_run(run["steps"], times["step_seconds"], run["devices"])


def plan_row(run: dict) -> str:
    """The row of a plan in its table."""
    ms = " | ".join(f"{1e3 * s:.2f}" for s in (*run["seconds"].values(), run["step_seconds"]))
    shares = ", ".join(f"{share:.0%}" for share in run["efficiency"].values())
    largest = f"{run['largest_batch']:,}" if run["largest_batch"] else "-"
    gib = f"{run['bytes_per_device'] / 2**30:.2f} of {run['memory'] / 2**30:.0f}"
    gib += "" if run["fits"] else ", **does not fit**"
    return (
        f"| {run['plan']} | {run['topology']} | {run['batch_size']:,} | {gib} | {largest} | "
        f"{run['flops_per_step']:.3g} | {ms} | {run['hours']:.2f} | {run['chip_hours']:,.0f} | "
        f"{shares} | {run['commit']} |"
    )


def what_moves(runs: list[dict]) -> list[str]:
    """Which parts of a step, and which operations, move the most bytes of memory."""
    columns = ("recipe", "slice", "GB a step", "parts", "largest operations")
    rows = [
        "### What moves",
        "",
        "Bytes that a chip reads and writes in a step, by part and by operation. Numbers in the "
        "path of an operation are `*`, and such operations are one.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for run in runs:
        if not run["moved"]:
            continue
        total = run["traffic"]
        parts = [f"{name} {size / total:.0%}" for name, size in run["moved"]["parts"].items()]
        largest = [
            f"`{one['source'] or one['kind']}` {one['array']} {one['bytes'] / total:.0%}"
            for one in run["moved"]["largest"][:3]
        ]
        rows.append(
            f"| {run['plan']} | {run['topology']} | {total / 1e9:.2f} | {', '.join(parts)} | "
            f"{'; '.join(largest)} |"
        )
    return rows


def residuals(found: list[dict]) -> str:
    """What the dtype of the residual stream costs in accuracy."""
    parts = ["## The residual stream of bfloat16 networks"]
    for run in found:
        about = f"{run['device']}, commit {run['commit'][:7]}, {run['date']}"
        parts += [
            "",
            f"`{run['command']}`, {about}: error against float32, of tokens and of the gradient.",
            "",
            "| network | tokens, f32 | bf16 | ratio | gradient, f32 | bf16 | ratio |",
            "|" + "---|" * 7,
        ]
        for row in run["residual"]:
            cells = [row["network"]]
            for key in ("tokens", "gradient"):
                low = row["float32"][key]
                high = row["bfloat16"][key]
                cells += [f"{low:.4f}", f"{high:.4f}", f"{high / low:.2f}"]
            parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts)


def soaks(found: list[dict]) -> str:
    """Runs that were killed again and again."""
    parts = ["## Soak", ""]
    for run in found:
        end = "equals" if run["equal"] else "**does not equal**"
        parts.append(
            f"`{run['command']}`, {run['device']}, commit {run['commit']}, {run['date']}, "
            f"{run['wall_seconds']:,.0f} s: after {run['soak']['kills']} SIGKILLs the final state "
            f"{end} that of the undisturbed run (step, loss, params_sha256 "
            f"`{run['params_sha256'][1][:16]}`); {len(run['soak']['set_aside'])} checkpoints were "
            "found damaged and set aside."
        )
    return "\n".join(parts)


def put_demo(found: dict) -> None:
    """Mean and deviation of the demo's seeds, between the marks in the README."""
    readme = HERE.parent / "README.md"
    before, mark, rest = readme.read_text().partition("<!-- demo -->\n")
    runs = found["demo"]
    seconds = [run["train_seconds"] for run in runs]
    about = (
        f"`{found['command']}`, commit {found['commit'][:7]}, {found['device']} (two cores), "
        f"{min(seconds)} to {max(seconds)} s of training a seed, mean ± deviation of {len(runs)} "
        "seeds:"
    )
    shown = f"{about}\n\n```\n{render(runs)}\n```\n"
    readme.write_text(
        before + mark + shown + "<!-- end of demo -->" + rest.partition("<!-- end of demo -->")[2]
    )


def main():
    found = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    parts = [INTRO]
    for one in found:
        if "demo" in one:
            put_demo(one)
    report_parity.put_parity([one for one in found if "families" in one])
    sections = (
        (report_accelerator.besides, lambda one: "beside" in one),
        (compared, lambda one: "method" in one),
        (report_distill.distilled, lambda one: one.get("task") == "distill"),
        (transfer, lambda one: "evaluations" in one),
        (words, lambda one: "words_alone" in one),
        (runs, lambda one: "train" in one and not {"method", "evaluations"} & one.keys()),
        (steps, lambda one: "rows" in one),
        (report_accelerator.accelerators, lambda one: "accelerator" in one),
        (memory, lambda one: isinstance(one.get("memory"), list)),
        (plans, lambda one: "plan" in one),
        (soaks, lambda one: "soak" in one),
        (residuals, lambda one: "residual" in one),
        (inputs, lambda one: "input" in one),
    )
    for section, belongs in sections:
        if chosen := [one for one in found if belongs(one)]:
            parts += [section(chosen), ""]
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    print((HERE / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
