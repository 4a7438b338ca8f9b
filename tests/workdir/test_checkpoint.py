"""Checkpoints on disk: what is kept, what damage does, what does not fit."""

import json
import logging
import pathlib
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from helpers.checkpoints import flip, largest, shapes_of, state_of

from jssl.config import UserError
from jssl.workdir import checksums, identity
from jssl.workdir.checkpoint import Checkpoints


def opened(folder, **changes):
    return Checkpoints(folder, **({"every": 1, "keep_latest": 2, "keep_best": 1} | changes))


def filled(folder, scores=((10, 0.1), (20, 0.9), (30, 0.3), (40, None), (50, 0.05))):
    saves = opened(folder)
    for step, score in scores:
        saves.save(step, state_of(step), score)
    saves.close()
    return pathlib.Path(folder) / "checkpoints"


def restored(folder):
    saves = opened(folder)
    try:
        return saves.restore(shapes_of(state_of(0)))
    finally:
        saves.close()


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    folder = filled(tmp_path)
    assert {int(path.name) for path in folder.glob("[0-9]*")} == {20, 40, 50}
    state = restored(tmp_path)
    assert state.step == 50 and (np.asarray(state.params["encoder"]) == 50).all()


def test_a_score_that_comes_after_its_step_was_saved_counts_and_outlives_the_process(tmp_path):
    for step, score in ((10, 0.2), (20, 0.9), (30, 0.3), (40, 0.1), (50, None)):
        saves = opened(tmp_path, keep_latest=1)  # a process for each step
        saves.save(step, state_of(step))
        if score is not None:
            saves.score(step, score)
        saves.close()
    assert {int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")} == {20, 50}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"10": null}', '{"10": [[]]}'])
def test_damaged_scores_are_a_warning(tmp_path, caplog, text):
    filled(tmp_path)
    (tmp_path / "checkpoints" / "scores.json").write_text(text)
    assert restored(tmp_path).step == 50
    assert "scores of the checkpoints are not known" in caplog.text


def test_scores_that_cannot_be_kept_are_a_warning(tmp_path, caplog, monkeypatch):
    saves = opened(tmp_path)

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jssl.data.files.write_json", full)
    saves.save(10, state_of(10))
    saves.score(10, 0.5)
    saves.score(10, float("nan"))
    saves.close()
    assert saves.scores == {10: 0.5} and "No space left" in caplog.text


def test_no_checkpoint_is_none(tmp_path):
    assert restored(tmp_path) is None


def some_sums(step: pathlib.Path):
    """The list of sums without the file that holds the arrays."""
    listed = json.loads((step / checksums.NAME).read_text())
    del listed[largest(step / "state").relative_to(step).as_posix()]
    (step / checksums.NAME).write_text(json.dumps(listed))


def linked(path: pathlib.Path):
    """Moves a file to another folder, and leaves a link."""
    there = path.parents[4] / f"elsewhere-{path.name}"
    path.rename(there)
    path.symlink_to(there)


DAMAGE = {
    "bits flip": lambda step: [flip(path) for path in (step / "state").rglob("d/*")],
    "one bit of an array flips": lambda step: flip(largest(step / "state"), 4),
    "truncated": lambda step: largest(step / "state").write_bytes(b""),
    "no manifest": lambda step: [path.unlink() for path in step.rglob("manifest.ocdbt")],
    "no metadata": lambda step: (step / "state" / "_METADATA").unlink(),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no file of an array": lambda step: largest(step / "state").unlink(),
    "empty": lambda step: (shutil.rmtree(step), step.mkdir()),
    "of another step": lambda step: (
        shutil.rmtree(step),
        shutil.copytree(step.with_name("40"), step),
    ),
    "no note": lambda step: (step / identity.NOTE).unlink(),
    "sums of nothing": lambda step: (step / checksums.NAME).write_text("{}"),
    "sums of some": lambda step: some_sums(step),
    "links for files": lambda step: [linked(p) for p in (step / "state").rglob("d/*")],
    "sums flip": lambda step: flip(step / checksums.NAME),
    "sums cut off": lambda step: (step / checksums.NAME).write_text('{"state/_METADATA": "'),
    "sums of other files": lambda step: (step / checksums.NAME).write_text('{"/dev/zero": ""}'),
    "sums of another kind": lambda step: (step / checksums.NAME).write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_step_is_set_aside_and_the_one_before_is_used(kind, tmp_path, caplog):
    folder = filled(tmp_path)
    DAMAGE[kind](folder / "50")
    with caplog.at_level(logging.WARNING, "jssl"):
        state = restored(tmp_path)
    assert state.step == 40 and (np.asarray(state.params["encoder"]) == 40).all()
    assert "checkpoint 50" in caplog.text
    assert (folder / "damaged-50").is_dir(), "nothing is deleted"
    saves = opened(tmp_path)
    saves.save(50, state_of(51, step=50), None)
    saves.close()
    state = restored(tmp_path)
    assert state.step == 50 and (np.asarray(state.params["encoder"]) == 51).all()


def test_a_bit_of_any_file_that_flips_is_named(tmp_path):
    step = filled(tmp_path) / "50"
    checksums.check(step)
    listed = json.loads((step / checksums.NAME).read_text())
    kept = [path for path in (step / "state").rglob("*") if path.is_file()]
    assert listed.keys() >= {str(path.relative_to(step)) for path in kept} and len(kept) > 5
    for path in kept:
        before = path.read_bytes()
        flip(path, 1)
        for part in range(3):  # of three processes one sees it
            mine = sorted(listed).index(str(path.relative_to(step))) % 3 == part
            with pytest.raises(ValueError, match=path.name) if mine else nullcontext():
                checksums.check(step, part, 3)
        path.write_bytes(before)


def test_a_step_of_before_there_were_sums_is_read(tmp_path):
    (filled(tmp_path) / "50" / checksums.NAME).unlink()
    assert restored(tmp_path).step == 50


def test_reading_leaves_the_folder_of_a_run_as_it_is(tmp_path):
    folder = filled(tmp_path)
    (folder / "60.orbax-checkpoint-tmp").mkdir()  # the run is writing it
    DAMAGE["bits flip"](folder / "50")
    before = sorted(folder.rglob("*"))
    saves = opened(tmp_path, read_only=True)
    assert saves.restore(shapes_of(state_of(0))).step == 40
    saves.close()
    assert sorted(folder.rglob("*")) == before
    assert opened(tmp_path / "none", read_only=True).restore(shapes_of(state_of(0))) is None
    assert not (tmp_path / "none").exists()


def test_a_half_written_step_is_ignored(tmp_path):
    folder = filled(tmp_path)
    half = folder / "60.orbax-checkpoint-tmp" / "state" / "_METADATA"
    half.parent.mkdir(parents=True)
    half.write_text("{")
    assert restored(tmp_path).step == 50
    for step in (20, 40, 50):
        shutil.rmtree(folder / str(step))
    half.parent.mkdir(parents=True)
    half.write_text("{")
    assert restored(tmp_path) is None, "a run that was killed in its first save"


def test_it_never_starts_from_scratch_when_all_are_damaged(tmp_path):
    folder = filled(tmp_path)
    for step in (20, 40, 50):
        shutil.rmtree(folder / str(step) / "state")
    before = sorted(folder.iterdir())
    for _ in range(2):
        with pytest.raises(UserError, match="no readable checkpoint"):
            restored(tmp_path)
        assert sorted(folder.iterdir()) == before, "none is moved, or the next start finds none"


def test_it_never_starts_from_scratch_beside_what_was_set_aside(tmp_path):
    folder = filled(tmp_path)
    for step in (20, 40, 50):
        (folder / str(step)).rename(folder / f"damaged-{step}")
    with pytest.raises(UserError, match="there are .'damaged-20'"):
        restored(tmp_path)


def test_another_tree_is_refused_and_nothing_is_moved(tmp_path):
    folder = filled(tmp_path)
    saves = opened(tmp_path)
    with pytest.raises(UserError, match=r"missing \['params/encoder \(9,\)'\]"):
        saves.restore(shapes_of(state_of(0, width=9)))
    saves.close()
    assert (folder / "50").is_dir()


def test_a_full_disk_is_said_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    saves = opened(tmp_path)
    with pytest.raises(UserError, match="free some space"):
        saves.check_space(shapes_of(state_of(0)))
    saves.close()
