"""`jssl plan` of every ImageNet recipe on TPU slices that are not here, as JSON.

    pip install 'jssl[plan]'
    python benchmarks/plans.py --out=benchmarks/results --topologies v5e:16x16 v5p:4x8x8 v6e:16x16

A compilation takes minutes; a file that is there already, of this commit, is not made again.
"""

import argparse
import datetime
import json
import pathlib
import sys

from step import ROOT, commit
from time_to_accuracy import run


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder for the JSON files")
    parser.add_argument("--topologies", nargs="+", default=["v5e:16x16"])
    parser.add_argument("--only", nargs="*", default=[], help="recipes; default: all of ImageNet")
    given = parser.parse_args()
    names = given.only or sorted(path.stem for path in (ROOT / "configs").glob("*_imagenet.py"))
    for topology in given.topologies:
        for name in names:
            path = pathlib.Path(given.out) / f"plan-{name}-{topology.replace(':', '-')}.json"
            if path.exists() and json.loads(path.read_text())["commit"] == commit():
                continue
            words = ("plan", f"--config=configs/{name}.py", f"--topology={topology}")
            found, seconds = run(*words)
            fits = "fits" if found["fits"] else "does not fit"
            print(f"{name} on {topology}: {fits}, {seconds:.0f} s", file=sys.stderr, flush=True)
            for derived in (
                "placement",
                "seconds",
                "step_seconds",
                "efficiency",
                "hours",
                "chip_hours",
            ):
                found.pop(derived)  # report.py computes them from the counts
            found = {"plan": name, "command": "jssl " + " ".join(words), **found}
            found |= {"commit": commit(), "date": datetime.date.today().isoformat()}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(found | {"compile_seconds": round(seconds)}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
