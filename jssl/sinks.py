"""Where scalars go: metrics.jsonl, TensorBoard, Weights & Biases. A sink is called with
(step, {name: float}) and closed at the end."""

import json
import math

from tensorboardX import SummaryWriter

from jssl.config import UserError


class Jsonl:
    """metrics.jsonl: one JSON object a line, appended, flushed."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        with open(path, "rb") as before:  # a full disk or a lost machine may have cut its last line
            before.seek(max(self.file.tell() - 1, 0))
            self.file.write("\n" * (before.read() not in (b"", b"\n")))

    def __call__(self, step, values):
        finite = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        self.file.write(json.dumps({"step": step, **finite}) + "\n")
        self.file.flush()

    def close(self):
        self.file.close()


class TensorBoard:
    """Scalars for TensorBoard, in <workdir>/tensorboard."""

    def __init__(self, folder):
        self.writer = SummaryWriter(str(folder))

    def __call__(self, step, values):
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self):
        self.writer.close()


class Wandb:
    """Scalars for Weights & Biases; `project` by config, the package is the extra `wandb`."""

    def __init__(self, project, workdir):
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"log.wandb={project!r} needs the wandb package; pip install 'jssl[wandb]'"
            ) from None
        self.run = wandb.init(project=project, dir=str(workdir), name=workdir.name, resume="allow")

    def __call__(self, step, values):
        self.run.log(values, step=step)

    def close(self):
        self.run.finish()


def open_all(workdir, *, tensorboard: bool, wandb: str):
    """metrics.jsonl always, TensorBoard and W&B by config."""
    sinks = [Wandb(wandb, workdir)] if wandb else []  # first: it may not be installed
    sinks.append(Jsonl(workdir / "metrics.jsonl"))
    return sinks + ([TensorBoard(workdir / "tensorboard")] if tensorboard else [])
