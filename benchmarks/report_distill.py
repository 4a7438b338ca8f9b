"""The table of `distill.py` in RESULTS.md."""

NAMES = {"cifar10": "a fifth of CIFAR-10", "imagenette": "Imagenette at 64 pixels"}


def distilled(found: list[dict]) -> str:
    """A teacher and its students, a table for each data set."""
    parts = ["## Distillation"]
    for run in found:
        steps = run["simclr_steps"]
        command = f"python benchmarks/distill.py --data=DATA --task={run['data']}"
        parts += [
            "",
            f"ResNet-10s of width 16 on {NAMES[run['data']]}, float32, batch 128: distilled from a "
            "ResNet-10 of width 32 that jssl trained by SimCLR, or trained by SimCLR for the same "
            f"time ({steps:,} steps). Mean ± deviation of the seeds. Seconds are of the students' "
            "training alone.",
            f"`{command}`, {run['versions']['device']}, commit {run['commit']}, {run['date']}.",
            "",
            "| network | seeds | kNN | linear | wall s |",
            "|---|---|---|---|---|",
        ]
        teacher = run["teacher"]
        parts.append(
            f"| teacher, SimCLR | 1 | {teacher['knn']:.4f} | {teacher['linear']:.4f} | "
            f"{teacher['wall_seconds']:.0f} |"
        )
        for kind, numbers in run["summary"].items():
            knn, linear, wall = (numbers[key] for key in ("knn", "linear", "wall_seconds"))
            parts.append(
                f"| student, {kind} | {len(run['students'][kind])} | {knn[0]:.4f} ± {knn[1]:.4f} | "
                f"{linear[0]:.4f} ± {linear[1]:.4f} | {wall[0]:.0f} ± {wall[1]:.0f} |"
            )
    return "\n".join(parts)
