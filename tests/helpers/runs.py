"""Folders in which a run has begun."""

import json

from helpers import image_info, with_content
from helpers.checkpoints import state_of
from jssl.config import load
from jssl.workdir import claim, identity
from jssl.workdir.checkpoint import Checkpoints

TINY = "configs/simclr_digits.py:tiny"
ROWS = (
    {"step": 2, "loss": 5.0, "examples_per_s": 8.0, "data_wait_fraction": 0.0},
    {"step": 2, "knn_top1": 0.5, "linear_top1": 0.25, "eval_seconds": 1.0},
    {"step": 4, "loss": 3.0, "examples_per_s": 16.0, "data_wait_fraction": 0.5},
    {"step": 4, "knn_top1": 0.375, "linear_top1": 0.5, "eval_seconds": 2.0},
)


def content(folder, config=None, data="aa", **flags):
    return claim.TrainingFolder(folder).compose(config or load(TINY), image_info(), data, **flags)


def begun(folder, config=None, steps=(2, 4)):
    """A folder in which a run has saved `steps`; what its config.json holds."""
    folder.mkdir(exist_ok=True)
    stored = content(folder, config)
    with_content(folder, stored).claim()
    save(folder, stored, steps)
    return stored


def save(folder, stored, steps):
    saves = opened(folder, stored)
    for step in steps:
        saves.save(step, state_of(step))
    saves.close()


def opened(folder, stored, **changes):
    given = {"every": 1, "keep_latest": 9, "keep_best": 0, "mark": identity.mark_of(stored)}
    return Checkpoints(folder, **(given | changes))


def trained(folder, rows=ROWS, **changes):
    """A workdir of a run with these log records."""
    begun(folder, load(TINY, changes))
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, "no json", ""]))
    return folder
