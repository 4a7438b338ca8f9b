"""Runs the demo once for each seed and writes what each found; `jssl.commands.demo` and the README
show it.

python benchmarks/demo.py --out=benchmarks/results --seeds 0 1 2
"""

import argparse
import datetime
import json
import pathlib
import tempfile

from jssl import cli
from jssl.commands.demo import RECIPE, demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks/results", help="a folder, for the JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    cli.setup(device=True)
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(demo(folder, str(RECIPE), seed))
        print(json.dumps(runs[-1]), flush=True)
    date = str(datetime.date.today())
    device = runs[0]["device"]
    command = "python benchmarks/demo.py --seeds " + " ".join(map(str, args.seeds))
    found = {"demo": runs, "command": command, "date": date}
    found |= {key: runs[0][key] for key in ("commit", "device", "jax")}
    path = pathlib.Path(args.out) / f"demo-{device.lower().replace(' ', '_')}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
