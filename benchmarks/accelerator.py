"""Measures jssl on the accelerator of this machine within a time limit, as one JSON file.

    python benchmarks/accelerator.py --plan=steps --out=benchmarks/results
    python benchmarks/accelerator.py --plan=cifar --data=DATA --out=benchmarks/results
    python benchmarks/accelerator.py --tiny --out=build/accelerator    # does it work? (CPU)

Rows run in order of worth, each in a process of its own with the time that is left as its limit.
The file is written after each row. The exit code is 1 if all rows of a group failed.
docs/guides/accelerator.md says what the plans measure.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from accelerator_rows import GROUPS, SEEDS, Row, environment, planned, python
from step import ROOT, commit

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
LEAST = 20  # seconds; in less no row ends


def run(row: Row, limit: float) -> dict[str, Any]:
    """Runs a row for at most `limit` seconds; returns its JSON, or {"error": what happened}."""
    process = subprocess.Popen(
        row.command,
        cwd=ROOT,
        env=environment(row),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:.0f} s"}
    finally:
        if process.poll() is None:  # with what it started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        return {"error": f"exit code {process.returncode}"}
    return read(out)


def read(out: str) -> dict[str, Any]:
    """Returns the JSON object in the last line of a text, or in all of it."""
    for text in (out.rstrip().rpartition("\n")[2], out):
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError):
            continue
    return {"error": "no JSON in its output"}


def shown(row: Row, data: str) -> str:
    """Returns the command without the folders of this machine."""
    words = ["python", *row.command[1:]]
    text = " ".join([f"XLA_FLAGS={row.flags}", *words] if row.flags else words)
    return text.replace(data, "DATA") if data else text


class Record:
    """The JSON file, written after each row.

    Args:
      args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder = pathlib.Path(args.out)
        self.data = args.data
        self.plan = f"{args.plan}-tiny" if args.tiny else args.plan
        command = f"python benchmarks/accelerator.py --plan={args.plan}"
        self.found: dict[str, Any] = {
            "accelerator": {},
            "command": command + (" --tiny" if args.tiny else ""),
            "commit": commit(args.commit),
            "date": datetime.date.today().isoformat(),
            "device": "unknown",
            "seeds": list(SEEDS[:1] if args.tiny else SEEDS),
            "versions": {"python": platform.python_version(), **versions()},
            "left_out": [],
        }

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        device = self.found["device"].replace(" ", "_")
        return self.folder / f"accelerator-{self.plan}-{device}-{self.found['date']}.json"

    def add(self, row: Row, result: dict[str, Any]) -> None:
        """Adds a result and writes the file."""
        group = self.found["accelerator"].setdefault(row.group, {})
        result = {"command": shown(row, self.data)} | result
        if row.variant:
            group.setdefault(row.name, {}).setdefault(row.variant, []).append(result)
        else:
            group[row.name] = result
        if row.group == "ceilings":
            self.found["device"] = result.get("device", "unknown")
        self.write()

    def leave_out(self, what: str) -> None:
        """Notes what was not measured, and writes the file."""
        print(f"left out: {what}", file=sys.stderr, flush=True)
        self.found["left_out"].append(what)
        self.write()

    def failed(self) -> list[str]:
        """Lists the groups of which no row gave a result."""
        return [
            name
            for name, group in self.found["accelerator"].items()
            if all("error" in result for result in results(group))
        ]

    def write(self) -> None:
        """Writes the file in one go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n")
        part.replace(self.path)


def results(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists the results of a group: one for each row, or one for each variant and round."""
    found = []
    for row in group.values():
        if "command" in row:
            found.append(row)
        else:
            found += [result for rounds in row.values() for result in rounds]
    return found


def versions() -> dict[str, str]:
    """Returns the versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def measure(row: Row, record: Record, end: float) -> dict[str, Any]:
    """Runs a row in the time that is left, and records it."""
    left = end - time.monotonic()
    name = ": ".join(filter(None, [row.group, row.name, row.variant]))
    if left < LEAST:
        record.leave_out(f"{name}: no time left")
        return {}
    print(f"[{left:.0f} s left] {name}", file=sys.stderr, flush=True)
    began = time.monotonic()
    result = run(row, left) | {"seconds": round(time.monotonic() - began, 1)}
    record.add(row, result)
    short = {k: v for k, v in result.items() if isinstance(v, (int, float)) or k == "error"}
    print(f"  {json.dumps(short)}", file=sys.stderr, flush=True)
    return result


def parsed() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", default="all", choices=("all", "tiny", *GROUPS))
    parser.add_argument("--tiny", action="store_true", help="the recipes' tiny sizes, few rows")
    parser.add_argument("--out", default="build/accelerator", help="folder for the JSON file")
    parser.add_argument("--seconds", type=float, default=540, help="time limit of all rows")
    parser.add_argument("--data", default="", help="folder with TFDS's cifar10")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--commit", default="", help="of a checkout that has no .git")
    args = parser.parse_args()
    if args.plan == "tiny":
        args.plan = "all"
        args.tiny = True
    args.data = args.data and str(pathlib.Path(args.data).resolve())
    return args


def measure_all(args: argparse.Namespace) -> Record:
    """Measures the rows of the plan until the time is over."""
    end = time.monotonic() + args.seconds
    record = Record(args)
    ceilings = python("benchmarks/ceilings.py", *(["--tiny"] if args.tiny else []))
    found = measure(Row("ceilings", "JAX", ceilings), record, end)
    for group, rows in planned(args, found.get("platform") == "gpu").items():
        if not rows:
            needs = {"peers": "PyTorch and its packages", "cifar": "--data"}[group]
            record.leave_out(f"{group}: needs {needs}")
        for row in rows:
            measure(row, record, end)
    return record


def main() -> None:
    """Runs the plan, with a compilation cache of its own: compile times are those of a new one."""
    args = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the row too, see `run`
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        record = measure_all(args)
    print(record.path)
    if failed := record.failed():
        sys.exit(f"all rows failed of: {', '.join(failed)}")


if __name__ == "__main__":
    main()
