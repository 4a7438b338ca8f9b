"""What pretraining is worth: encoders pretrained and untrained, measured alike, as JSON.

    python benchmarks/transfer.py --data=DATA --out=benchmarks/results            # an accelerator
    python benchmarks/transfer.py --data=DATA --out=benchmarks/results --small    # two CPU cores

Text: BERT and GPT on classic_books, in the pieces of a tokenizer trained on the same books;
perplexity on held-out books; then SST-2, fine-tuned from the pretrained and from the untrained
encoder. Images: MAE and data2vec on Imagenette; linear probe and fine-tuning, likewise.
--small: far smaller networks, images and budgets. It shows whether pretraining helps there, and
nothing about the published sizes.
"""

import argparse
import datetime
import json
import pathlib
import sys
import tempfile

from step import commit
from time_to_accuracy import anonymous, run, save

SST2 = {"data.name": "sst2", "data.pack": False, "eval.split": "test"}
TASKS = {  # recipe; evaluations: protocol -> what it changes, and on how many seeds
    "bert": ("bert_small_books", {"perplexity": ({}, 0), "finetune": (SST2, 3)}),
    "gpt": ("gpt_small_books", {"perplexity": ({}, 0), "finetune": (SST2, 3)}),
    "mae": ("mae_imagenette", {"linear": ({}, 0), "finetune": ({}, 1)}),
    "data2vec": ("data2vec_imagenette", {"linear": ({}, 0), "finetune": ({}, 1)}),
}
ROWS = {  # rotary, as learned positions have not begun to help BERT in so few steps
    "data.length": 64, "model.length": 64, "model.dtype": "float32", "batch_size": 64,
    "model.positions": "rotary", "model.dropout": 0.0, "alarm.collapse": "off",
}  # fmt: skip
PIXELS = {
    "data.canvas": 96, "augment.size": 64, "model.image_size": 64, "model.patch": 8,
    "model.name": "vit_ti", "model.dtype": "float32", "eval.every": 0, "log.render_every": 0,
    "batch_size": 64, "optim.lr": 1e-3, "optim.lr_scaling": "none", "steps": 1200,
    "optim.warmup_steps": 120,
}  # fmt: skip
SMALL = {
    "bert": ROWS | {"model.name": "bert_tiny", "steps": 3000, "optim.lr": 1e-3,
                    "optim.warmup_steps": 100},
    "gpt": ROWS | {"model.name": "gpt_micro", "steps": 2000, "optim.lr": 2e-3},
    "mae": PIXELS | {"decoder.dim": 128, "decoder.depth": 2, "decoder.heads": 4},
    "data2vec": PIXELS,
}  # fmt: skip
TUNED = {  # of the evaluations with --small
    "bert": {"finetune.epochs": 6, "finetune.batch_size": 64, "finetune.lr": 4e-3},
    "gpt": {"finetune.epochs": 6, "finetune.batch_size": 64, "finetune.lr": 4e-3},
    "mae": {"finetune.epochs": 6, "finetune.batch_size": 64, "finetune.lr": 2e-3,
            "finetune.mixup": 0.0, "finetune.crop_scale": "(0.35,1.0)", "finetune.warmup": 0.1},
}  # fmt: skip
TUNED["data2vec"] = TUNED["mae"]


def words(changes: dict) -> list[str]:
    return [f"--config.{key}={value}" for key, value in changes.items()]


def tokenizer(recipe: str, data: list[str], folder: str, size: int) -> dict:
    path = pathlib.Path(folder) / "bpe.json"
    run("data", "tokenizer", f"--config={recipe}", *data, f"--out={path}", f"--vocab={size}")
    return {"data.tokenizer": path}


def measure(task: str, data: str, small: bool) -> dict:
    """Trains one task and evaluates it, from its checkpoint and from its first state."""
    name, evaluations = TASKS[task]
    recipe, changes = f"configs/{name}.py", dict(SMALL[task]) if small else {}
    place = words({"data.dir": data})
    with tempfile.TemporaryDirectory() as folder:
        if "books" in name:
            changes |= tokenizer(recipe, place, folder, 4096 if small else 8192)
        command = ("train", f"--config={recipe}", *place, *words(changes))
        work = f"--workdir={folder}/run"
        trained, seconds = run(*command, work)
        settings = json.loads((pathlib.Path(folder) / "run" / "config.json").read_text())
        found, asked = {}, {}
        for protocol, (given, seeds) in evaluations.items():
            given = given | (TUNED[task] if small else {})
            asked[protocol] = ("eval", f"--protocol={protocol}", *place, *words(given))
            found[protocol] = {
                start: [
                    run(*asked[protocol], work, *words({"finetune.seed": i} if seeds else {}),
                        *(["--untrained"] if start == "untrained" else []))[0]
                    for i in range(seeds or 1)
                ]
                for start in ("pretrained", "untrained")
            }  # fmt: skip
            print(task, protocol, json.dumps(found[protocol]), file=sys.stderr, flush=True)
    tidy = lambda given: anonymous("jssl " + " ".join(given)).replace(f"{folder}/", "")
    return {
        "task": task,
        "size": "small" if small else "full",
        "command": tidy(command),
        "evaluations": {protocol: tidy(given) for protocol, given in asked.items()},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "versions": settings["versions"],
        "wall_seconds": round(seconds, 1),
        "train": trained,
        "eval": found,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with TFDS's data sets")
    parser.add_argument("--out", required=True, help="folder for the JSON files")
    parser.add_argument("--small", action="store_true", help="sizes for two CPU cores")
    parser.add_argument("--only", nargs="*", default=[], help="tasks; default: all")
    given = parser.parse_args()
    for task in given.only or TASKS:
        found = measure(task, given.data, given.small)
        print(save(found, given.out, f"transfer-{task}-{found['size']}"), flush=True)


if __name__ == "__main__":
    main()
