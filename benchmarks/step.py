"""The speed of whole training steps, one row a recipe and size, as JSON and as a table.

    python benchmarks/step.py --out=benchmarks/results          # the rows of an accelerator
    python benchmarks/step.py --tiny                            # does the script work? (CPU)

Each row runs `jssl bench` in a process of its own, so that peak_bytes is that row's. Every step
makes its views from uint8 images on the device: augmentation is part of the time.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
NONE = {"optim.warmup_steps": 0}
ROWS = {
    "SimCLR ResNet-18, 32 px, 512 images": ("simclr_cifar10", {"batch_size": 512}),
    "SimCLR ResNet-50, 224 px, 256 images": ("simclr_imagenet", {"batch_size": 256}),
    "MAE ViT-B/16, 224 px, 1024 images": ("mae_vitb_imagenet", {"batch_size": 1024}),
    "MAE ViT-L/16, 224 px, 512 images": ("mae_vitl_imagenet", {"batch_size": 512}),
    "BERT-base, 64 x 512 tokens": ("bert_base", {"batch_size": 64, "vocab": 30_522}),
    "GPT-2 124M, 32 x 1,024 tokens": ("gpt2", {"batch_size": 32, "vocab": 50_304}),
    "BYOL ResNet-50, 224 px, 256 images": ("byol_imagenet", {"batch_size": 256}),
}


def commit(given: str = "") -> str:
    """The commit of this checkout, or `given`, for machines without `.git` or git."""
    if given:
        return given
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def words_of(recipe: str, changes: dict, steps: int, tiny: bool) -> list[str]:
    """The words after `jssl` of a row; `tiny`: at the recipe's tiny size, without the changes."""
    variant = f"{recipe}.py:tiny" if tiny else f"{recipe}.py"
    words = ["bench", f"--config=configs/{variant}", f"--steps={steps}"]
    return words + [
        f"--{'' if key == 'vocab' else 'config.'}{key}={value}"
        for key, value in ({} if tiny else changes | NONE).items()
    ]


def measure(words: list[str]) -> dict:
    """The JSON line of one `jssl bench`, with the command that made it."""
    done = subprocess.run(
        [sys.executable, "-m", "jssl", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    command = "jssl " + " ".join(words)
    if done.returncode:
        return {"command": command, "error": f"exit code {done.returncode}"}
    return {"command": command, **json.loads(done.stdout.splitlines()[-1])}


def table(rows: dict) -> str:
    columns = ("work", "ms/step", "p99", "examples/s", "MFU", "J/example", "compile s", "peak GB")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | | | | | |")
            continue
        mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
        joules = row.get("joules_per_example")
        energy = "-" if joules is None else f"{joules:.3g}"
        lines.append(
            f"| {name} | {row['ms_per_step']:.1f} | {row['p99_ms']:.1f} | "
            f"{row['examples_per_s']:,.0f} | {mfu} | {energy} | {row['compile_s']:.0f} | {peak} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", default="", help="folder for step-<device>-<date>.json")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--tiny", action="store_true", help="each recipe's tiny size")
    parser.add_argument("--set", action="append", default=[], help="config.key=value for all rows")
    parser.add_argument("--commit", default="", help="of a checkout that has no .git")
    given = parser.parse_args()
    rows = {}
    for name, (recipe, changes) in ROWS.items():
        if given.only not in name:
            continue
        name = f"{recipe}:tiny" if given.tiny else name  # a row says what was run
        print(name, file=sys.stderr, flush=True)
        words = words_of(recipe, changes, given.steps, given.tiny)
        rows[name] = measure([*words, *(f"--{word}" for word in given.set)])
    print(table(rows))
    if given.out:
        today = datetime.date.today().isoformat()
        device = next((row["device"] for row in rows.values() if "device" in row), "unknown")
        path = pathlib.Path(given.out) / f"step-{device.replace(' ', '_')}-{today}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"commit": commit(given.commit), "date": today, "device": device, "rows": rows}
        path.write_text(json.dumps(about, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
