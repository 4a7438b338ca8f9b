"""Numbers that are not finite: what `accumulate.guard` cannot mend by skipping an update.

After `alarm.max_consecutive_nonfinite` skipped updates in a row the run goes back to the last
checkpoint from before them, and on with other examples: those from that checkpoint to here are
passed over. The passes are kept in <workdir>/passed.json, so that the examples of a step are still
a function of the seed, the step and that file, and a resume is exact. After `alarm.max_rollbacks`
of them the run ends with exit 2, and the examples of the last bad steps are named in
<workdir>/nonfinite.json.
"""

import logging
import os
import pathlib

import jax

from jssl.config import UserError
from jssl.data.sampling import data_offset, indices
from jssl.parallel import agreement
from jssl.workdir import run_folder

log = logging.getLogger("jssl")
LONGEST = 2**31 - 1  # steps of a run


class Diverged(Exception):
    """`row` updates up to this step were skipped."""

    def __init__(self, step: int, row: int):
        super().__init__(f"{row} updates in a row were not finite, up to step {step}")
        self.step = step
        self.row = row


class NonFinite:
    """A sink of metrics: raises `Diverged` once so many updates in a row were skipped; warns of
    each visit that saw a new one. 0: only warns."""

    def __init__(self, limit: int):
        self.limit = limit
        self.seen = None

    def __call__(self, step: int, values: dict[str, float]) -> None:
        total = values.get("skipped", 0)
        if self.seen is not None and total > self.seen:
            log.warning("step %d: %d updates were not finite so far: skipped", step, total)
        self.seen = total
        if self.limit and values.get("skipped_row", 0) >= self.limit:
            raise Diverged(step, int(values["skipped_row"]))


def skipped_ranges(folder: pathlib.Path, steps: int = LONGEST) -> list[list[int]]:
    """[[step, examples of how many steps are passed over from there on], ...], in order, of a run
    of so many `steps`. `UserError` if the file is not what `roll_back` writes."""
    return agreement.first(lambda: _passed(folder / "passed.json", steps))


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


def check_passed(folder: pathlib.Path, known: list, note: dict, step: int) -> list[list[int]]:
    """`known`, if the checkpoint of `step`, whose `note` says what its run had passed over, fits
    it: the same, and then only passes from that step on. `UserError` otherwise."""
    before = note.get("passed", [])
    if known[: len(before)] != before or any(at < step for at, _ in known[len(before) :]):
        raise UserError(
            f"{folder / 'passed.json'} holds {known}, and the checkpoint of step {step} is of a "
            f"run that had passed over {before}; restore the one that belongs here"
        )
    return known


def roll_back(folder, config, saves, shapes, found: Diverged, examples: int, limit: int):
    """(the state to go on with, what `skipped_ranges` now is). `UserError` after `limit` rollbacks,
    and where no checkpoint from before is left."""
    ranges = skipped_ranges(folder)
    first = found.step - found.row
    is_first = jax.process_index() == 0
    size = config.batch_size
    steps = [step for step in saves.steps() if step <= first]
    if len(ranges) >= limit or not steps:

        def of(step):
            return indices(config.seed, step + data_offset(ranges, step), examples, size).tolist()

        examples_of_step = {str(step): of(step) for step in range(first, found.step)}
        if is_first:
            run_folder.write(folder / "nonfinite.json", examples_of_step)
        why = f"after {len(ranges)} rollbacks" if steps else "and no checkpoint from before is left"
        raise UserError(
            f"{found} {why}; their examples are in {folder}/nonfinite.json; "
            "try a lower optim.lr, or optim.clip_norm=1.0"
        )
    state = saves.restore(shapes, upto=first)
    step = int(state.step)
    shift = data_offset(ranges, found.step) + found.step - step
    saves.passed = ranges = [*ranges, [step, shift]]
    agreement.run_on_all_processes(
        lambda: run_folder.write(folder / "passed.json", ranges) if is_first else None
    )
    log.warning("%s: back to step %d, past the examples of %d steps", found, step, shift)
    return state, ranges
