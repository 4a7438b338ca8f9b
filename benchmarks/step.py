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
}


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def measure(recipe: str, changes: dict, steps: int, extra: list[str]) -> dict:
    """The JSON line of one `jssl bench`, with the command that made it."""
    words = ["bench", f"--config=configs/{recipe}", f"--steps={steps}", *extra]
    words += [
        f"--{'' if key == 'vocab' else 'config.'}{key}={value}" for key, value in changes.items()
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jssl", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    command = "jssl " + " ".join(words)
    if done.returncode:
        return {"command": command, "error": f"exit code {done.returncode}"}
    return {"command": command, **json.loads(done.stdout.splitlines()[-1])}


def table(rows: dict) -> str:
    lines = ["| work | ms/step | p99 | examples/s | MFU | compile s | peak GB |", "|" + "---|" * 7]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | | | | |")
            continue
        mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
        lines.append(
            f"| {name} | {row['ms_per_step']:.1f} | {row['p99_ms']:.1f} | "
            f"{row['examples_per_s']:,.0f} | {mfu} | {row['compile_s']:.0f} | {peak} |"
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
    given = parser.parse_args()
    rows = {}
    for name, (recipe, changes) in ROWS.items():
        if given.only not in name:
            continue
        variant = (f"{recipe}.py:tiny", {}) if given.tiny else (f"{recipe}.py", changes | NONE)
        name = f"{recipe}:tiny" if given.tiny else name  # a row says what was run
        print(name, file=sys.stderr, flush=True)
        rows[name] = measure(*variant, given.steps, [f"--{word}" for word in given.set])
    print(table(rows))
    if given.out:
        today = datetime.date.today().isoformat()
        device = next((row["device"] for row in rows.values() if "device" in row), "unknown")
        path = pathlib.Path(given.out) / f"step-{device.replace(' ', '_')}-{today}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"commit": commit(), "date": today, "device": device, "rows": rows}
        path.write_text(json.dumps(about, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
