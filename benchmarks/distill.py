"""A small student, distilled from a teacher or trained by SimCLR for the same time.

    python benchmarks/distill.py --data=DATA --out=benchmarks/results --work=DIR
    python benchmarks/distill.py --data=DATA --out=benchmarks/results --work=DIR --task=imagenette
    python benchmarks/distill.py --data=DATA --out=DIR --tiny            # does the script work?

The teacher is a ResNet-10 of width 32 that jssl trains by SimCLR; students are ResNet-10s of width
16: on a fifth of CIFAR-10, or on Imagenette at 64 pixels. SimCLR gets the steps that take as long
as the distillation: the throughput of both is measured first. The time of the teacher's own
training is told beside them, and is not counted. Several seeds of each; kNN and linear probe of
`jssl eval`. A second call with the same --work goes on with the runs that it finds there.
"""

import argparse
import datetime
import itertools
import json
import pathlib
import statistics
import sys
import tempfile

from time_to_accuracy import anonymous, save
from transfer import once, words

COMMON = {
    "model.name": "resnet10", "model.width": 16, "model.dtype": "float32", "batch_size": 128,
    "eval.every": 0, "log.every": 39, "checkpoint.every": 390, "eval.online_linear_epochs": 0,
}  # fmt: skip
TASKS = {
    "cifar10": {"data.split": "train[:20%]"},
    "imagenette": {
        "data.name": "imagenette/160px-v2", "data.max_side": 80, "augment.size": 64,
        "model.stem": "imagenet", "eval.split": "validation",
    },
}  # fmt: skip
TEACHER = COMMON | {"model.width": 32, "steps": 780}
STUDENT = COMMON | {"steps": 390}
WARMUP = {"optim.warmup_steps": 39}
KINDS = {  # student: recipe, changes
    "simclr": ("simclr_cifar10", {}),
    "distill": ("distill_cifar10", WARMUP),
    "distill, features alone": ("distill_cifar10", WARMUP | {"dense_weight": 0.0}),
    "distill, similarities": (
        "distill_cifar10",
        WARMUP | {"global_weight": 0.0, "dense_weight": 0.0, "relation_weight": 1.0},
    ),
}
TINY = {"data.split": "train[:1%]", "model.width": 4, "batch_size": 32}
TINY_STEPS = {"log.every": 1, "checkpoint.every": 4}


class Bench:
    """The runs of one call.

    Attributes:
      folder: where they are kept.
      data: folder with TFDS's cifar10 and imagenette.
      task: a key of `TASKS`.
      tiny: whether sizes are those of a test of the script.
    """

    def __init__(self, folder: pathlib.Path, data: str, task: str, tiny: bool) -> None:
        self.folder = folder
        self.data = data
        self.task = task
        self.tiny = tiny

    def command(self, recipe: str, changes: dict) -> tuple[str, ...]:
        """The words of `jssl train`, without workdir."""
        changes = {"data.dir": self.data} | TASKS[self.task] | changes
        if self.tiny:
            changes |= TINY | TINY_STEPS | {"steps": min(changes["steps"], 4)}
            if "optim.warmup_steps" in changes:
                changes["optim.warmup_steps"] = 1
            split = changes.get("eval.split", "test")
            changes["eval.split"] = f"{split}[:1%]"
        return ("train", f"--config=configs/{recipe}.py", *words(changes))

    def train(self, name: str, recipe: str, changes: dict) -> dict:
        """Trains a run in `folder`/`name`, and evaluates it by kNN and linear probe."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        work = f"--workdir={folder}/run"
        command = self.command(recipe, changes)
        trained = once(folder / "trained.json", *command, work)
        scores = {
            protocol: once(folder / f"{protocol}.json", "eval", work, f"--protocol={protocol}")
            for protocol in ("knn", "linear")
        }
        top1 = {protocol: score["found"]["top1"] for protocol, score in scores.items()}
        print(name, json.dumps(top1), file=sys.stderr, flush=True)
        return {
            "command": self.tidy(command),
            "commit": trained["commit"],
            "wall_seconds": round(trained["seconds"], 1),
            "examples_per_s": trained["found"]["examples_per_s"],
            "params_sha256": trained["found"]["params_sha256"],
            **top1,
        }

    def speed(self, name: str, recipe: str, changes: dict) -> float:
        """Examples per second of a short run, alone on the machine."""
        folder = self.folder / "speed"
        folder.mkdir(parents=True, exist_ok=True)
        steps = {"steps": 117}
        command = self.command(recipe, changes | steps)
        found = once(folder / f"{name}.json", *command, f"--workdir={folder}/{name}")
        return found["found"]["examples_per_s"]

    def tidy(self, command: tuple[str, ...]) -> str:
        """A command without the folders of this machine."""
        return anonymous("jssl " + " ".join(command)).replace(f"{self.folder}/", "")


def measure(bench: Bench, kinds: list[str], seeds: int) -> dict:
    """Trains the teacher, then students of these kinds and of all seeds."""
    teacher = bench.train("teacher", "simclr_cifar10", TEACHER)
    path = {"teacher": f"{bench.folder}/teacher/run"}
    students = {}
    own = {}
    for kind in kinds:
        recipe, changes = KINDS[kind]
        own[kind] = STUDENT | changes | (path if recipe.startswith("distill") else {})
    rates = {kind: bench.speed(slug(kind), KINDS[kind][0], own[kind]) for kind in own}
    steps = round(STUDENT["steps"] * rates["simclr"] / rates["distill"])
    own["simclr"]["steps"] = steps
    for kind in kinds:
        students[kind] = [
            bench.train(f"{slug(kind)}-{seed}", KINDS[kind][0], own[kind] | {"seed": seed})
            for seed in range(seeds)
        ]
    settings = json.loads((bench.folder / "teacher" / "run" / "config.json").read_text())
    return {
        "task": "distill",
        "data": bench.task,
        "size": "tiny" if bench.tiny else "small",
        "date": datetime.date.today().isoformat(),
        "commit": commits([teacher, *itertools.chain(*students.values())]),
        "versions": settings["versions"],
        "examples_per_s": rates,
        "simclr_steps": steps,
        "student_steps": STUDENT["steps"],
        "teacher": teacher | {"steps": TEACHER["steps"]},
        "students": students,
        "summary": {kind: summary(rows) for kind, rows in students.items()},
    }


def commits(rows: list[dict]) -> str:
    """The commits of runs, "a, b": a folder of runs may hold those of an earlier call."""
    return ", ".join(dict.fromkeys(row["commit"] for row in rows))


def slug(kind: str) -> str:
    """A kind of student as the name of a folder."""
    return kind.replace(", ", "-").replace(" ", "_")


def summary(rows: list[dict]) -> dict:
    """Mean and deviation of the seeds."""
    found = {}
    for key in ("knn", "linear", "wall_seconds"):
        values = [row[key] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        found[key] = [round(statistics.mean(values), 4), round(spread, 4)]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with the data sets of TFDS")
    parser.add_argument("--out", required=True, help="folder for the JSON file")
    parser.add_argument("--work", default="", help="keep the runs here; a second call goes on")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind of student")
    parser.add_argument("--task", choices=TASKS, default="cifar10", help="the data set")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS), help="students")
    parser.add_argument("--tiny", action="store_true", help="four steps of everything")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(given.work or scratch).resolve()
        data = str(pathlib.Path(given.data).resolve())
        bench = Bench(folder / given.task, data, given.task, given.tiny)
        found = measure(bench, given.kinds, given.seeds)
    print(json.dumps(found["summary"], indent=1))
    print(save(found, given.out, f"distill-{given.task}-{found['size']}"), flush=True)


if __name__ == "__main__":
    main()
