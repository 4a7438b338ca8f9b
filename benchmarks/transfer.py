"""What pretraining is worth: encoders pretrained and untrained, measured alike, as JSON.

    python benchmarks/transfer.py --data=DATA --out=benchmarks/results            # an accelerator
    python benchmarks/transfer.py --data=DATA --out=benchmarks/results --small    # two CPU cores

Text: BERT and GPT on classic_books, in the pieces of a tokenizer trained on the same books;
perplexity on held-out books; then SST-2, fine-tuned from the pretrained and from the untrained
encoder. Images: MAE and data2vec on Imagenette; linear probe and fine-tuning, likewise.
--small: far smaller networks, images and budgets. It shows whether pretraining helps there, and
nothing about the published sizes. --work=DIR keeps the runs: a second call goes on with them.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import sys
import tempfile

from step import commit
from time_to_accuracy import anonymous, run, save

SST2 = {"data.name": "sst2", "data.pack_documents": False}
RATES = [8 * rate for rate in (3e-4, 1e-4, 5e-5)]  # README of google-research/bert, per 256
FEW = SST2 | {"data.split": "train[:10%]", "finetune.epochs": 10}
LANGUAGE = {  # protocol, what it changes, on how many seeds, rates to try
    "perplexity": ("perplexity", {}, 0, []),
    "finetune": ("finetune", SST2, 3, RATES),
    "finetune, a tenth of the labels": ("finetune", FEW, 3, RATES),
}
IMAGES = {"linear": ("linear", {}, 0, []), "finetune": ("finetune", {}, 1, [])}
CLS = SST2 | {"finetune.pool": "first"}  # as BERT is published: section 4.1, the [CLS] token
TASKS = {
    "bert": ("bert_small_books", LANGUAGE | {"finetune, [CLS]": ("finetune", CLS, 3, RATES)}),
    "gpt": ("gpt_small_books", LANGUAGE),
    "mae": ("mae_imagenette", IMAGES),
    "data2vec": ("data2vec_imagenette", IMAGES),
}
ROWS = {  # rotary, as learned positions have not begun to help BERT in so few steps
    "data.seq_len": 64, "model.length": 64, "model.dtype": "float32", "batch_size": 64,
    "model.positions": "rotary", "model.dropout": 0.0, "alarm.collapse": "off",
}  # fmt: skip
PIXELS = {
    "data.max_side": 72, "augment.size": 48, "model.image_size": 48, "model.patch": 8,
    "model.name": "vit_micro", "model.dtype": "float32", "eval.every": 0, "log.render_every": 0,
    "batch_size": 64, "optim.lr": 1e-3, "optim.lr_scaling": "none", "optim.warmup_steps": 200,
}  # fmt: skip
SMALL = {
    "bert": ROWS | {"model.name": "bert_tiny", "steps": 6000, "optim.lr": 1e-3,
                    "optim.warmup_steps": 100},
    "gpt": ROWS | {"model.name": "gpt_micro", "steps": 4000, "optim.lr": 2e-3},
    "mae": PIXELS | {"steps": 4000, "decoder.dim": 128, "decoder.depth": 2, "decoder.heads": 4},
    "data2vec": PIXELS | {"steps": 2000},
}  # fmt: skip
TUNED = {  # of the evaluations with --small
    "mae": {"finetune.epochs": 6, "finetune.batch_size": 64, "finetune.lr": 2e-3,
            "finetune.mixup": 0.0, "finetune.crop_scale": "(0.35,1.0)",
            "finetune.warmup_fraction": 0.1},
}  # fmt: skip
TUNED["data2vec"] = TUNED["mae"]


def words(changes: dict) -> list[str]:
    return [f"--config.{key}={value}" for key, value in changes.items()]


def tokenizer(recipe: str, data: list[str], path: pathlib.Path, size: int) -> dict:
    if not path.exists():
        run("data", "tokenizer", f"--config={recipe}", *data, f"--out={path}", f"--vocab={size}")
    return {"data.tokenizer": path}


def measure(task: str, data: str, small: bool, folder: pathlib.Path) -> dict:
    """Trains one task in `folder`, or goes on there, and evaluates it: from its checkpoint and from
    its first state. Where rates are given each start has its own, by its accuracy on the validation
    split; the test is asked only then."""
    recipe, evaluations = TASKS[task]
    recipe, changes = f"configs/{recipe}.py", dict(SMALL[task]) if small else {}
    place = words({"data.dir": data})
    folder.mkdir(parents=True, exist_ok=True)
    if "books" in recipe:
        changes |= tokenizer(recipe, place, folder / "bpe.json", 4096 if small else 8192)
    command = ("train", f"--config={recipe}", *place, *words(changes))
    work = f"--workdir={folder}/run"
    trained = once(folder / "trained.json", *command, work)
    settings = json.loads((folder / "run" / "config.json").read_text())
    found, asked, tried = {}, {}, {}
    for name, (protocol, given, seeds, rates) in evaluations.items():
        given = given | (TUNED.get(task, {}) if small else {})
        asked[name] = ("eval", f"--protocol={protocol}", *place, *words(given))

        def ask(start, changes, command=(*asked[name], work)):
            first = ["--untrained"] if start == "untrained" else []
            command = (*command, *words(changes), *first)
            known = hashlib.sha256(" ".join(command).encode()).hexdigest()[:16]
            answer = once(folder / f"{known}.json", *command)["found"]
            print(task, start, changes, json.dumps(answer), file=sys.stderr, flush=True)
            return answer

        for start in ("pretrained", "untrained"):
            tries = {
                rate: ask(start, {"finetune.lr": rate, "eval.split": "validation"})["top1"]
                for rate in rates
            }
            best = {"finetune.lr": max(tries, key=tries.get), "eval.split": "test"} if tries else {}
            tried.setdefault(name, {})[start] = tries
            found.setdefault(name, {})[start] = [
                ask(start, best | ({"finetune.seed": i} if seeds else {}))
                for i in range(seeds or 1)
            ]

    def tidy(given):
        return anonymous("jssl " + " ".join(given)).replace(f"{folder}/", "")

    return {
        "task": task,
        "size": "small" if small else "full",
        "command": tidy(command),
        "evaluations": {name: tidy(given) for name, given in asked.items()},
        "commit": trained["commit"],
        "date": datetime.date.today().isoformat(),
        "versions": settings["versions"],
        "wall_seconds": round(trained["seconds"], 1),
        "train": trained["found"],
        "validation_top1": tried,
        "eval": found,
    }


def once(path: pathlib.Path, *command) -> dict:
    """The command's answer and seconds, kept in `path`: a second time it is only read."""
    if not path.exists():
        found, seconds = run(*command)
        path.write_text(json.dumps({"found": found, "seconds": seconds, "commit": commit()}))
    return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with TFDS's data sets")
    parser.add_argument("--out", required=True, help="folder for the JSON files")
    parser.add_argument("--small", action="store_true", help="sizes for two CPU cores")
    parser.add_argument("--work", default="", help="keep the runs here; a second call goes on")
    parser.add_argument("--only", nargs="*", default=[], help="tasks; default: all")
    given = parser.parse_args()
    for task in given.only or TASKS:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(
                task, given.data, given.small, pathlib.Path(given.work or scratch, task)
            )
        print(save(found, given.out, f"transfer-{task}-{found['size']}"), flush=True)


if __name__ == "__main__":
    main()
