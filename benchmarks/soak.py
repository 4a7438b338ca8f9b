"""A run that is killed at many random moments, during saves too, ends as one that never was.

    python benchmarks/soak.py --kills=100 --out=benchmarks/results

A tiny run saves after every step. It is started again and again and killed (SIGKILL) at a random
moment, a quarter of the times while it starts up; at last it is let finish. Its parameters must be
bit for bit those of an undisturbed run. Nothing in the workdir is ever mended by hand.
"""

import argparse
import datetime
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from step import ROOT, commit

RUN = [
    "train", "--config=configs/simclr_digits.py:tiny", "--config.checkpoint.every=1",
    "--config.checkpoint.keep_latest=3", "--config.eval.every=0", "--config.log.every=1",
]  # fmt: skip


def start(folder, steps: int):
    words = [*RUN, f"--config.steps={steps}", f"--workdir={folder}"]
    return subprocess.Popen(
        [sys.executable, "-m", "jssl", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder, steps: int) -> tuple[dict, float]:
    began = time.perf_counter()
    process = start(folder, steps)
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}:\n{error[-3000:]}")
    return json.loads(out.splitlines()[-1]), time.perf_counter() - began


def newest(folder) -> int:
    """The newest step on disk, whole or not."""
    found = [path.name for path in pathlib.Path(folder, "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in found if name.isdigit()), default=0)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="folder for soak-<device>-<date>.json")
    given = parser.parse_args()
    draw, began, deaths = random.Random(given.seed), time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        whole, seconds = finish(f"{scratch}/whole", given.steps)
        life = f"{scratch}/killed"
        while len(deaths) < given.kills and newest(life) < given.steps - 10:
            process, known = start(life, given.steps), newest(life)
            if draw.random() < 0.25:  # while it starts up, or reads its checkpoint
                time.sleep(draw.uniform(0.1, 10))
            else:  # while it trains and saves: some steps later, and at any moment of a step
                until = known + draw.randint(1, 5)
                while newest(life) < until and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 2 * seconds / given.steps))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            deaths.append(newest(life))
            print(f"kill {len(deaths)}: step {deaths[-1]} is on disk", file=sys.stderr, flush=True)
        ended, _ = finish(life, given.steps)
        damaged = [path.name for path in pathlib.Path(life, "checkpoints").glob("damaged-*")]
    found = {
        "soak": {"kills": len(deaths), "steps_on_disk": deaths, "set_aside": damaged},
        "equal": all(ended[key] == whole[key] for key in ("step", "loss", "params_sha256")),
        "command": f"python benchmarks/soak.py --kills={given.kills} --steps={given.steps}",
        "params_sha256": [whole["params_sha256"], ended["params_sha256"]],
        "wall_seconds": round(time.perf_counter() - began, 1),
        "device": "cpu", "commit": commit(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    print(json.dumps(found))
    if given.out:
        path = pathlib.Path(given.out) / f"soak-{found['device']}-{found['date']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["equal"] else 1)


if __name__ == "__main__":
    main()
