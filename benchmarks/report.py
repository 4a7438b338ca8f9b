"""Writes benchmarks/RESULTS.md, and the demo's table in README.md, from benchmarks/results/*.json.

    python benchmarks/report.py

No figure is typed by hand: each comes from a file that a benchmark wrote, with its command, commit
and device beside it.
"""

import json
import pathlib

from step import table

from jssl.demo import render

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
        "Every method on a small task: a fifth of CIFAR-10, ResNet-10 of width 16 in float32, 5 "
        "epochs of batch 128. So short a run says nothing about which method is better; one that "
        "is not above `untrained`, an encoder of random weights, has not been shown to learn here."
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
        parts += [
            "| method | kNN, last | kNN, best | linear | wall s | examples/s | commit | date |"
        ]
        parts += ["|" + "---|" * 8]
        for run in sorted(chosen, key=lambda run: -run["eval"]["knn"]["top1"]):
            best = max([*run["knn_history"].values(), run["eval"]["knn"]["top1"]])
            parts.append(
                f"| {run['method']} | {run['eval']['knn']['top1']:.4f} | {best:.4f} | "
                f"{run['eval']['linear']['top1']:.4f} | {run['wall_seconds']:.0f} | "
                f"{run['train']['examples_per_s']:,.0f} | {run['commit']} | {run['date']} |"
            )
    return "\n".join(parts)


def memory(found: list[dict]) -> str:
    """What chunks and GradCache save, by the compiler's own count."""
    parts = ["## Memory"]
    for run in found:
        parts += [
            "",
            f"`{run['command']}`, {run['device']}, commit {run['commit']}, {run['date']}:",
        ]
        loss, step = run["memory"]
        gb = lambda n: f"{n / 1e9:.2f} GB"
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


def put_demo(found: dict) -> None:
    """The newest demo's output between the marks in the README."""
    readme = HERE.parent / "README.md"
    before, mark, rest = readme.read_text().partition("<!-- demo -->\n")
    about = (
        f"`make demo`, commit {found['commit'][:7]}, {found['device']} (two cores), "
        f"{found['train_seconds']} s of training:"
    )
    shown = f"{about}\n\n```\n{render(found)}\n```\n"
    readme.write_text(
        before + mark + shown + "<!-- end of demo -->" + rest.partition("<!-- end of demo -->")[2]
    )


def main():
    found = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    parts = [INTRO]
    for demo in (one for one in found if "top1" in one):
        put_demo(demo)
    sections = (
        (compared, lambda one: "method" in one),
        (runs, lambda one: "train" in one and "method" not in one),
        (steps, lambda one: "rows" in one),
        (memory, lambda one: "memory" in one),
    )
    for section, belongs in sections:
        if chosen := [one for one in found if belongs(one)]:
            parts += [section(chosen), ""]
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    print((HERE / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
