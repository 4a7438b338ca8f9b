"""`make demo`: SimCLR learns scattered digits without labels, and a table shows what it is worth.

Three sets of features meet the same two protocols: raw pixels, the untrained encoder, the
pretrained encoder. Labels are used by the protocols only. The figures of one seed scatter: the
range of several seeds, which `benchmarks/demo.py` measured, is printed beside them.
"""

import argparse
import io
import json
import logging
import pathlib
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from jssl import cli, config, train
from jssl import workdir as workdirs
from jssl.checkpoint import Checkpoints
from jssl.evals import offline
from jssl.evals.features import Features
from jssl.evals.online import evaluation_source
from jssl.run import prepare

log = logging.getLogger("jssl")
ROOT = pathlib.Path(__file__).parent.parent
RECIPE = ROOT / "configs" / "simclr_digits.py"
PROTOCOLS = {"knn": "kNN", "linear": "linear probe"}


def pixels(source) -> tuple[np.ndarray, np.ndarray]:
    """(all pixels [N, H * W * C] in 0..1, labels) of a source."""
    rows = source.read(np.arange(len(source)))
    return rows["image"].reshape(len(source), -1) / np.float32(255), rows["label"]


def demo(workdir: str, spec: str, seed: int = 0) -> dict:
    """Trains the recipe with `seed` and measures what it learned.

    Returns top1 {features: {protocol: accuracy in 0..1}}, the seed, the steps, the seconds of
    training, and the versions.
    """
    tree = config.load(spec, {"seed": str(seed)})
    began = time.perf_counter()
    result = train.train(tree, workdir)
    seconds = time.perf_counter() - began
    log.info("training done in %.0f s; measuring three sets of features", seconds)
    view = config.Config(tree)
    run = prepare(view)
    bank = run.data.source
    sources = bank, evaluation_source(view, bank.classes)
    saves = config.bind(Checkpoints, view.checkpoint, "checkpoint", workdir=workdir, read_only=True)
    features = Features(run.method.embed, run.mesh, view.eval.batch_size)
    untrained, trained = run.init(), saves.restore(run.shapes)
    rows = {
        "raw pixels": [pixels(source) for source in sources],
        "untrained encoder": [features(untrained, source) for source in sources],
        "pretrained encoder": [features(trained, source) for source in sources],
    }
    classes = len(sources[0].classes)
    table = {
        name: {
            protocol: round(measure(view, run.mesh, classes, *pair)["top1"], 4)
            for protocol, measure in offline.PROTOCOLS.items()
        }
        for name, pair in rows.items()
    }
    about = workdirs.versions()
    return {
        "seed": seed,
        "train_seconds": round(seconds),
        "steps": result["step"],
        "top1": table,
        **about,
    }


def measured() -> dict | None:
    """The newest result of `benchmarks/demo.py` in this checkout, or None."""
    paths = (ROOT / "benchmarks" / "results").glob("demo-*.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs = [one for one in found if "demo" in one]
    return max(runs, key=lambda one: one["date"], default=None)


def summary(runs: list[dict], features: str, protocol: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of one entry of the table."""
    values = [run["top1"][features][protocol] for run in runs]
    return statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0


def expectation(found: dict) -> str:
    """One line: in which range the pretrained encoder's figures should fall."""
    ranges = []
    for protocol, name in PROTOCOLS.items():
        mean, deviation = summary(found["demo"], "pretrained encoder", protocol)
        ranges.append(f"{name} {mean - 2 * deviation:.2f} to {mean + 2 * deviation:.2f}")
    count = len(found["demo"])
    return (
        f"Expected for the pretrained encoder: {', '.join(ranges)} (mean and twice the deviation "
        f"of {count} seeds at commit {found['commit'][:7]})."
    )


def render(runs: list[dict]) -> str:
    """The table of one run, or of several with mean and deviation."""
    table = Table(title="Top-1 accuracy on unseen scans")
    table.add_column("features")
    for name in PROTOCOLS.values():
        table.add_column(name, justify="right")
    for features in runs[0]["top1"]:
        cells = []
        for protocol in PROTOCOLS:
            mean, deviation = summary(runs, features, protocol)
            cells.append(f"{mean:.3f}" + (f" ± {deviation:.3f}" if runs[1:] else ""))
        table.add_row(features, *cells)
    console = Console(file=io.StringIO(), width=70)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def main(argv=None) -> int:
    """`make demo`: trains, shows the table, and prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/demo")
    parser.add_argument("--config", default=str(RECIPE))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)

    def run() -> dict:
        cli.setup(device=True)
        found = demo(given.workdir, given.config, given.seed)
        print(render([found]))
        if known := measured():
            print(expectation(known))
        return found

    return cli.finish(lambda: cli.attempt(run))


if __name__ == "__main__":
    sys.exit(main())
