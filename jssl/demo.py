"""`make demo`: SimCLR learns scattered digits without labels, and a table says what it is worth.

Three sets of features meet the same two protocols: raw pixels, the untrained encoder, the
pretrained encoder. Labels are used by the protocols only.
"""

import argparse
import io
import json
import logging
import pathlib
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
RECIPE = pathlib.Path(__file__).parent.parent / "configs" / "simclr_digits.py"


def pixels(source) -> tuple[np.ndarray, np.ndarray]:
    """(all pixels [N, H * W * C] in 0..1, labels) of a source."""
    rows = source.read(np.arange(len(source)))
    return rows["image"].reshape(len(source), -1) / np.float32(255), rows["label"]


def demo(workdir: str, spec: str) -> dict:
    """Trains the recipe and returns {features: {protocol: top-1}}, with the seconds of training."""
    tree = config.load(spec)
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
    return {"train_seconds": round(seconds), "steps": result["step"], "top1": table, **about}


def render(found: dict) -> str:
    """The table that the demo prints."""
    table = Table(title="Top-1 accuracy on unseen scans")
    for column in ("features", "kNN", "linear probe"):
        table.add_column(column, justify="left" if column == "features" else "right")
    for name, scores in found["top1"].items():
        table.add_row(name, *(f"{scores[protocol]:.3f}" for protocol in ("knn", "linear")))
    console = Console(file=io.StringIO(), width=60)
    console.print(table)
    return console.file.getvalue().rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/demo")
    parser.add_argument("--config", default=str(RECIPE))
    given = parser.parse_args()
    cli.setup()
    try:
        found = demo(given.workdir, given.config)
    except config.UserError as error:
        return cli.complain(str(error))
    print(render(found))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
