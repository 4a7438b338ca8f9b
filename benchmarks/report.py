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
    for section, key in ((runs, "train"), (steps, "rows")):
        if chosen := [one for one in found if key in one]:
            parts += [section(chosen), ""]
    (HERE / "RESULTS.md").write_text("\n".join(parts))
    print((HERE / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
