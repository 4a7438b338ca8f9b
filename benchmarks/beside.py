"""The step of jssl beside PyTorch's on the same work, in alternation, as one JSON file.

    python benchmarks/beside.py --cpu --peer-python=PYTHON --out=benchmarks/results
    python benchmarks/beside.py --peer-python=PYTHON --out=benchmarks/results     # a GPU
    python benchmarks/beside.py --cpu --tiny                                      # does it work?

Every round runs `jssl bench` and `peers.py --row` in processes of their own, one after the other.
The rows are those of peers.py. Without PyTorch behind --peer-python only jssl is measured. The file
is written after each process. `compare.py` compares two such files.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
from typing import Any

from accelerator import run, versions
from accelerator_rows import Row, python
from step import commit, words_of

FLOAT32 = {"model.dtype": "float32"}
VIT_S = {
    "model.name": "vit_s",
    "decoder.dim": 256,
    "decoder.depth": 4,
    "decoder.heads": 8,
}
Works = dict[str, tuple[str, dict[str, Any]]]
CPU: Works = {
    "simclr_r18_32px_b64_views_made": ("simclr_cifar10", {"batch_size": 64, **FLOAT32}),
    "simclr_r50_224px_b8_views_made": ("simclr_imagenet", {"batch_size": 8, **FLOAT32}),
    "mae_vits_b16": ("mae_vitb_imagenet", {"batch_size": 16, **VIT_S, **FLOAT32}),
    "bert_small_16x128_tokens": ("bert_small_books", {"batch_size": 16, "vocab": 8192, **FLOAT32}),
    "gpt_small_8x256_tokens": (
        "gpt_small_books",
        {"batch_size": 8, "vocab": 8192, "model.dropout": 0.0, **FLOAT32},
    ),
}
GPU: Works = {
    "simclr_r18_32px_b512_views_made": ("simclr_cifar10", {"batch_size": 512}),
    "simclr_r50_224px_b256_views_made": ("simclr_imagenet", {"batch_size": 256}),
    "byol_r50_224px_b256_views_made": ("byol_imagenet", {"batch_size": 256}),
    "mae_vitb_b1024": ("mae_vitb_imagenet", {"batch_size": 1024}),
    "mae_vitl_b512": ("mae_vitl_imagenet", {"batch_size": 512}),
    "bert_base_64x512_tokens": ("bert_base", {"batch_size": 64, "vocab": 30_528}),
    "gpt2_32x1024_tokens": ("gpt2", {"batch_size": 32, "vocab": 50_304}),
}
SIDES = {"jssl": "ms_per_step", "peer": "ms"}  # the key of a step's milliseconds


def sides(name: str, work: tuple[str, dict[str, Any]], args: argparse.Namespace) -> dict[str, Row]:
    """Returns the process of each side of a row."""
    steps = args.steps or (3 if args.cpu else 30)
    device = ["--cpu"] if args.cpu else []
    peer = [args.peer_python, "benchmarks/peers.py", *device, f"--row={name}", f"--steps={steps}"]
    ours = python("-m", "jssl", *words_of(*work, steps, args.tiny))
    return {"jssl": Row("", name, ours), "peer": Row("", name, peer)}


def measure(rows: dict[str, Row], result: dict[str, Any], limit: float) -> None:
    """Runs each side once and adds its time, or the first error of a side, to `result`."""
    for side, row in rows.items():
        if f"{side}_error" in result:
            continue
        found = run(row, limit)
        if "error" in found:
            result[f"{side}_error"] = found["error"]
            continue
        result.setdefault(side, []).append(found[SIDES[side]])
        for key in ("device", "torch"):
            if key in found:
                result.setdefault(key, found[key])


def summary(result: dict[str, Any]) -> str:
    """One line about a row."""
    parts = []
    for side in SIDES:
        if times := result.get(side):
            parts.append(f"{side} {min(times):.1f}, {statistics.median(times):.1f} ms")
        elif f"{side}_error" in result:
            parts.append(f"{side}: {result[f'{side}_error']}")
    return "; ".join(parts)


def parsed() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="the small rows, in float32")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a block; default: 30, on a CPU 3")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one process")
    parser.add_argument("--tiny", action="store_true", help="jssl's tiny sizes: not the same work")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--commit", default="", help="of a checkout that has no .git")
    parser.add_argument("--out", default="", help="folder for beside-<device>.json")
    return parser.parse_args()


def main() -> None:
    """Runs the rounds and writes the file after each of them."""
    args = parsed()
    works = {
        name: work
        for name, work in (CPU if args.cpu else GPU).items()
        if not args.only or any(part in name for part in args.only)
    }
    results: dict[str, dict[str, Any]] = {name: {} for name in works}
    words = "".join([" --cpu" if args.cpu else "", " --tiny" if args.tiny else ""])
    about = {
        "command": f"python benchmarks/beside.py{words} --peer-python=PYTHON",
        "commit": commit(args.commit),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "beside": results,
    }
    for turn in range(args.rounds):
        for name, work in works.items():
            rows = sides(name, work, args)
            results[name]["command"] = " ".join(["jssl", *rows["jssl"].command[3:]])
            measure(rows, results[name], args.limit)
            print(f"{turn + 1}/{args.rounds} {name}: {summary(results[name])}", file=sys.stderr)
            if args.out:
                device = results[name].get("device", "unknown").replace(" ", "_")
                path = pathlib.Path(args.out) / f"beside-{device}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about))


if __name__ == "__main__":
    main()
