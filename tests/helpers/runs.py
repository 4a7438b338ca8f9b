"""Folders in which a run has begun."""

from helpers import image_info, with_content
from helpers.checkpoints import state_of
from jssl.config import load
from jssl.workdir import claim, identity
from jssl.workdir.checkpoint import Checkpoints

TINY = "configs/simclr_digits.py:tiny"


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
