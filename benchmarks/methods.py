"""Every method on CIFAR-10: what its encoder is worth after 50 epochs of batch 512.

    python benchmarks/methods.py --data=DATA --out=benchmarks/results            # an accelerator
    python benchmarks/methods.py --data=DATA --out=benchmarks/results --small    # two CPU cores

One run for each configs/*_cifar10.py, at the settings of the recipe, and one with a rate of 0: an
encoder of random weights whose BatchNorm has seen the data. --small is another, far smaller task
(ResNet-10 of width 16, a fifth of the images, 5 epochs of batch 128) that can show that a method
learns, and nothing about which method is better. Three that fall at first, before they rise, get
15 epochs.
"""

import argparse
import pathlib
import sys

from step import ROOT
from time_to_accuracy import measure, save

SMALL = {
    "model.name": "resnet10", "model.width": 16, "model.dtype": "float32", "batch_size": 128,
    "data.split": "train[:20%]", "steps": 390, "eval.every": 130, "log.every": 39,
    "checkpoint.every": 195, "eval.online_linear_epochs": 0,
}  # fmt: skip
# What is counted in steps or examples has to shrink with the task. Barlow Twins and VICReg compare
# features over a batch: 2,048 of them over 128 images are mostly noise.
FEWER = {
    "moco": {"queue": 2048, "bn_splits": 4},
    "moco_v3": {"optim.warmup_steps": 39},
    "nnclr": {"queue": 2048},
    "deepcluster": {"period": 78, "clusters": "(300,300,300)", "optim.freeze_steps": 78,
                    "optim.warmup_steps": 117},
    "vicreg": {"optim.warmup_steps": 117, "steps": 1170, "head.features": "(256,256,256)"},
    "barlow_twins": {"steps": 1170, "head.features": "(256,256,256)"},
    "simsiam": {"steps": 1170},
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with TFDS's cifar10")
    parser.add_argument("--out", required=True, help="folder for the JSON files")
    parser.add_argument("--small", action="store_true", help="a task for two CPU cores")
    parser.add_argument("--only", nargs="*", default=[], help="methods; default: all")
    parser.add_argument("--commit", default="", help="of a checkout that has no .git")
    given = parser.parse_args()
    recipes = sorted((ROOT / "configs").glob("*_cifar10.py"))
    names = [path.stem.removesuffix("_cifar10") for path in recipes]
    names.remove("distill")  # it needs a teacher: benchmarks/distill.py
    for name in ["untrained", *names]:
        if given.only and name not in given.only:
            continue
        print(f"--- {name}", file=sys.stderr, flush=True)
        recipe = "simclr" if name == "untrained" else name
        config = f"configs/{recipe}_cifar10.py:epochs50"
        changes = SMALL | FEWER.get(name, {}) if given.small else {"eval.every": 976}
        if name == "untrained":
            changes = changes | {"optim.lr": 0, "steps": 50}
        words = [f"--config.{key}={value}" for key, value in changes.items()]
        words.insert(0, f"--config.data.dir={pathlib.Path(given.data)}")
        found = measure(config, words, given_commit=given.commit)
        found |= {"method": name, "task": "small" if given.small else "full"}
        print(save(found, given.out, f"method-{name}-{found['task']}"), flush=True)


if __name__ == "__main__":
    main()
