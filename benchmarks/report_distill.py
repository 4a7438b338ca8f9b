"""The table of `distill.py` in RESULTS.md."""

PROBES = ("knn", "linear")
NAMES = {"cifar10": "a fifth of CIFAR-10", "imagenette": "Imagenette at 64 pixels"}


def distilled(found: list[dict]) -> str:
    """A teacher and its students, a table for each data set."""
    parts = ["## Distillation"]
    for run in found:
        steps = {"simclr": run["simclr_steps"]}
        ratio = run["examples_per_s"]["distill"] / run["examples_per_s"]["simclr"]
        command = f"python benchmarks/distill.py --data=DATA --task={run['data']}"
        parts += [
            "",
            f"ResNet-10s of width 16 on {NAMES[run['data']]}, float32, batch 128: distilled from a "
            "ResNet-10 of width 32 that jssl trained by SimCLR, or trained by SimCLR for the same "
            f"time. A step of distillation takes {1 / ratio:.2f} times a step of SimCLR. Mean ± "
            "deviation of the seeds.",
            f"`{command}`, {run['versions']['device']}, commit {run['commit']}, {run['date']}.",
            "",
            "| network | seeds | steps | kNN | linear |",
            "|---|---|---|---|---|",
        ]
        teacher = run["teacher"]
        parts.append(
            f"| teacher, SimCLR | 1 | {teacher['steps']:,} | {teacher['knn']:.4f} | "
            f"{teacher['linear']:.4f} |"
        )
        for kind, numbers in run["summary"].items():
            knn, linear = (f"{mean:.4f} ± {dev:.4f}" for mean, dev in map(numbers.get, PROBES))
            count = steps.get(kind, run["student_steps"])
            parts.append(
                f"| student, {kind} | {len(run['students'][kind])} | {count:,} | {knn} | {linear} |"
            )
    return "\n".join(parts)
