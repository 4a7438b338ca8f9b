"""`jssl demo`: SimCLR learns scattered digits without labels, and a table shows its accuracy.

The same two protocols evaluate three sets of features: raw pixels, the untrained encoder, the
pretrained encoder. Only the protocols use labels. The figures of one seed vary, so the output also
has the range over several seeds, which `benchmarks/demo.py` measured.
"""

import io
import json
import logging
import pathlib
import statistics
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jssl import config
from jssl.commands import evaluate
from jssl.commands.arguments import count
from jssl.commands.table import COMMANDS, Args, Overrides
from jssl.data.source import Source
from jssl.evals.features import Features
from jssl.evals.online import evaluation_source
from jssl.training import loop
from jssl.training.setup import setup_run
from jssl.workdir import run_folder

log = logging.getLogger("jssl")
ROOT = pathlib.Path(__file__).parent.parent.parent
RECIPE = COMMANDS["demo"].flags["config"].default
PROTOCOLS = {"knn": "kNN", "linear": "linear probe"}


def pixels(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns (all pixels float32 [N, H * W * C] in 0..1, labels int32 [N]) of a source."""
    rows = source.read(np.arange(len(source)))
    return rows["image"].reshape(len(source), -1) / np.float32(255), rows["label"]


def demo(
    workdir: str, spec: str, seed: int = 0, overrides: Overrides | None = None
) -> dict[str, Any]:
    """Trains the recipe `spec` with `seed` in `workdir` and evaluates its features.

    Returns top1 {features: {protocol: accuracy in 0..1}}, the seed, the steps, the seconds of
    training, and the versions.
    """
    tree = config.load(spec, (overrides or {}) | {"seed": str(seed)})
    began = time.perf_counter()
    result = loop.train(tree, workdir)
    seconds = time.perf_counter() - began
    log.info("training done in %.0f s; measuring three sets of features", seconds)
    return {
        "seed": seed,
        "train_seconds": round(seconds),
        "steps": result["step"],
        "top1": accuracies(workdir, config.Config(tree)),
        **run_folder.versions(),
    }


def accuracies(workdir: str, view: config.Config) -> dict[str, dict[str, float]]:
    """Evaluates three sets of features: {features: {protocol: accuracy in 0..1}}."""
    run_dir = run_folder.RunFolder(workdir)
    info = run_dir.data_info
    run = setup_run(view, data_info=info)
    bank = run.data.source
    assert bank.classes is not None, "the recipe of the demo has labels"
    sources = (bank, evaluation_source(view, info, bank.classes))
    features = Features(run.method.embed, run.mesh, view.eval.batch_size)
    untrained = run.init()
    trained = run_dir.checkpoints(view.checkpoint).restore(run.shapes)
    assert trained is not None, "a run that is done has a checkpoint"
    rows = {
        "raw pixels": [pixels(source) for source in sources],
        "untrained encoder": [features(untrained, source) for source in sources],
        "pretrained encoder": [features(trained, source) for source in sources],
    }
    classes = len(bank.classes)
    return {
        name: {
            protocol: round(measure(view, run.mesh, classes, *pair)["top1"], 4)
            for protocol, measure in evaluate.PROTOCOLS.items()
        }
        for name, pair in rows.items()
    }


def measured() -> dict[str, Any] | None:
    """Reads the newest result of `benchmarks/demo.py` in this checkout, or None."""
    paths = (ROOT / "benchmarks" / "results").glob("demo-*.json")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runs = [result for result in results if "demo" in result]
    return max(runs, key=lambda result: result["date"], default=None)


def summary(runs: list[dict[str, Any]], features: str, protocol: str) -> tuple[float, float]:
    """Returns mean and standard deviation, over seeds, of one entry of the table."""
    values = [run["top1"][features][protocol] for run in runs]
    return statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0


def expectation(found: dict[str, Any]) -> str:
    """Describes in one line the expected range of the pretrained encoder's figures."""
    ranges = []
    for protocol, name in PROTOCOLS.items():
        mean, deviation = summary(found["demo"], "pretrained encoder", protocol)
        ranges.append(f"{name} {mean - 2 * deviation:.2f} to {mean + 2 * deviation:.2f}")
    count = len(found["demo"])
    return (
        f"Expected for the pretrained encoder: {', '.join(ranges)} (mean and twice the deviation "
        f"of {count} seeds at commit {found['commit'][:7]})."
    )


def render(runs: list[dict[str, Any]]) -> str:
    """Formats the table of one run, or of several with mean and deviation."""
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
    output = io.StringIO()
    Console(file=output, width=70).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Trains, prints the table and the expected range, and returns the result of `demo`."""
    result = demo(args["workdir"], args["config"], count(args, "seed", least=0), overrides)
    print(render([result]))
    if benchmark := measured():
        print(expectation(benchmark))
    return result
