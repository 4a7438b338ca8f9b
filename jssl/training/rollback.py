"""Recovers from repeated non-finite updates, which skipping alone (`gradients.skip_nonfinite`)
cannot fix.

After `alarm.max_consecutive_nonfinite` consecutive skipped updates the run returns to the last
checkpoint before them and continues with other examples: it skips the examples from that checkpoint
to the present step. <workdir>/skipped_data.json lists the skipped ranges, so that the examples of a
step are still a function of the seed, the step and that file, and a resume is exact. After
`alarm.max_rollbacks` rollbacks the run ends with exit 2, and <workdir>/nonfinite.json names the
examples of the last bad steps.
"""

import logging
import os
import pathlib
from typing import Any

import jax

from jssl.config import Config, UserError
from jssl.core import TrainState, Tree
from jssl.data.sampling import data_offset, indices
from jssl.parallel import agreement
from jssl.workdir import run_folder
from jssl.workdir.checkpoint import Checkpoints

log = logging.getLogger("jssl")
LONGEST = 2**31 - 1  # steps of a run


class Diverged(Exception):
    """The last `row` updates up to `step` were not finite and were skipped."""

    def __init__(self, step: int, row: int) -> None:
        super().__init__(f"{row} updates in a row were not finite, up to step {step}")
        self.step = step
        self.row = row


class NonFinite:
    """Checks the counts of skipped updates; call it as ``check(step, values)`` at every visit.

    It warns at each visit with new skipped updates, and raises `Diverged` after `limit` consecutive
    ones. 0: it only warns.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen: float | None = None

    def __call__(self, step: int, values: dict[str, float]) -> None:
        total = values.get("skipped", 0)
        if self.seen is not None and total > self.seen:
            log.warning("step %d: %d updates were not finite so far: skipped", step, total)
        self.seen = total
        if self.limit and values.get("skipped_consecutive", 0) >= self.limit:
            raise Diverged(step, int(values["skipped_consecutive"]))


def skipped_ranges(folder: pathlib.Path, steps: int = LONGEST) -> list[list[int]]:
    """Reads the skipped ranges of a run, [[step, offset], ...] in ascending order.

    From `step` on, the order of the data is shifted by `offset` steps.

    Args:
      folder: the folder of the run.
      steps: the steps of the run.

    Raises:
      UserError: the file is not as `roll_back` writes it.
    """
    return agreement.first(lambda: _passed(folder / "skipped_data.json", steps))


def _passed(path: pathlib.Path, steps: int) -> list[list[int]]:
    ranges = run_folder.read(path) if os.path.lexists(path) else []
    if not isinstance(ranges, list):
        raise run_folder.unreadable(path, "it is not what jssl writes")
    for pair in ranges:
        if not isinstance(pair, list) or [type(n) for n in pair] != [int, int]:
            raise run_folder.unreadable(path, "it is not what jssl writes")
        if not (0 <= pair[0] <= steps and 1 <= pair[1] <= LONGEST):
            raise run_folder.unreadable(path, f"{pair} is no step of this run and number of steps")
    return ranges


def check_passed(
    folder: pathlib.Path, known: list[list[int]], note: dict[str, Any], step: int
) -> list[list[int]]:
    """Checks the skipped ranges `known` against those of a checkpoint; returns them.

    The ranges in the `note` of the checkpoint come first, then only ranges that start at its `step`
    or later.

    Raises:
      UserError: they do not fit each other.
    """
    before = note.get("passed", [])
    if known[: len(before)] != before or any(at < step for at, _ in known[len(before) :]):
        raise UserError(
            f"{folder / 'skipped_data.json'} holds {known}, and the checkpoint of step {step} is "
            f"of a run that had passed over {before}; restore the one that belongs here"
        )
    return known


def _examples_by_step(
    config: Config, ranges: list[list[int]], steps: range, examples: int
) -> dict[str, list[int]]:
    """Lists the examples of some steps, {step: indices}; `examples`: the size of the data set."""
    size = config.batch_size
    return {
        str(step): indices(config.seed, step + data_offset(ranges, step), examples, size).tolist()
        for step in steps
    }


def roll_back(
    folder: pathlib.Path,
    config: Config,
    saves: Checkpoints,
    shapes: Tree,
    found: Diverged,
    examples: int,
    limit: int,
) -> tuple[TrainState, list[list[int]]]:
    """Returns to the last checkpoint before the updates that were not finite.

    Args:
      folder: the folder of the run.
      config: its config.
      saves: its checkpoints.
      shapes: the ShapeDtypeStructs of its state, with shardings.
      found: the reason.
      examples: the size of the data set.
      limit: the largest number of rollbacks.

    Returns:
      The state from which the run continues, and the new `skipped_ranges`.

    Raises:
      UserError: after `limit` rollbacks, or if there is no earlier checkpoint.
    """
    ranges = skipped_ranges(folder)
    first = found.step - found.row
    writes = jax.process_index() == 0
    steps = [step for step in saves.steps() if step <= first]
    if len(ranges) >= limit or not steps:
        if writes:
            bad = _examples_by_step(config, ranges, range(first, found.step), examples)
            run_folder.write(folder / "nonfinite.json", bad)
        why = f"after {len(ranges)} rollbacks" if steps else "and no checkpoint from before is left"
        raise UserError(
            f"{found} {why}; their examples are in {folder}/nonfinite.json; "
            "try a lower --config.optim.lr, or --config.optim.clip_norm=1.0"
        )
    state = saves.restore(shapes, upto=first)
    assert state is not None, "there is a checkpoint of a step up to `first`"
    step = int(state.step)
    shift = data_offset(ranges, found.step) + found.step - step
    ranges = [*ranges, [step, shift]]
    saves.passed = ranges
    agreement.run_on_all_processes(
        lambda: run_folder.write(folder / "skipped_data.json", ranges) if writes else None
    )
    log.warning("%s: back to step %d, past the examples of %d steps", found, step, shift)
    return state, ranges
