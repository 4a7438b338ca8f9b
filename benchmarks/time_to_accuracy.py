"""How long a recipe trains, and what its encoder is worth afterwards, as JSON.

    python benchmarks/time_to_accuracy.py --config=configs/simclr_cifar10.py:epochs50 \\
        --config.data.dir=DATA --config.eval.every=0 --out=benchmarks/results

Runs `jssl train` and then `jssl eval` (kNN and linear) as a user would, in processes of their own.
"""

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from step import ROOT, commit


def run(*words) -> tuple[dict, float]:
    """(last JSON line, seconds) of a `jssl` command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "jssl", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - began


def anonymous(command: str) -> str:
    """The command without the folders of this machine."""
    return re.sub(r"(--config\.data\.(?:dir|path)=)\S+", r"\1DATA", command)


def measure(config: str, overrides: list[str], workdir: str = "", given_commit: str = "") -> dict:
    """Trains and evaluates a recipe; everything that a table needs to say of it."""
    with tempfile.TemporaryDirectory() as scratch:
        work = f"--workdir={workdir or scratch + '/run'}"
        words = ("train", f"--config={config}", *overrides)
        trained, seconds = run(*words, work)
        scores = {p: run("eval", work, f"--protocol={p}")[0] for p in ("knn", "linear")}
        folder = pathlib.Path(work.partition("=")[2])
        versions = json.loads((folder / "config.json").read_text())["versions"]
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        history = {row["step"]: row["knn_top1"] for row in rows if "knn_top1" in row}
    return {
        "command": anonymous("jssl " + " ".join(words)),
        "commit": commit(given_commit),
        "date": datetime.date.today().isoformat(),
        "versions": versions,
        "wall_seconds": round(seconds, 1),
        "train": trained,
        "eval": scores,
        "knn_history": history,
    }


def save(found: dict, folder: str, name: str) -> pathlib.Path:
    """<folder>/<name>-<device>-<date>.json"""
    device = found["versions"]["device"].replace(" ", "_")
    path = pathlib.Path(folder) / f"{name}-{device}-{found['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", default="", help="folder for <recipe>-<device>-<date>.json")
    parser.add_argument(
        "--workdir", default="", help="keep the run here (default: a temporary one)"
    )
    parser.add_argument("--commit", default="", help="of a checkout that has no .git")
    given, overrides = parser.parse_known_args()
    found = measure(given.config, overrides, given.workdir, given.commit)
    print(json.dumps(found, indent=1))
    if given.out:
        print(save(found, given.out, pathlib.Path(given.config.partition(":")[0]).stem))


if __name__ == "__main__":
    main()
