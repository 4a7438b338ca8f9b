"""Whose files the parts of a workdir are: what goes together, is refused, is agreed on."""

import errno
import json
import logging
import os
import pathlib

import jax
import pytest
from helpers import with_content
from helpers.checkpoints import shapes_of, state_of
from helpers.runs import TINY, begun, content, opened, save

from jssl.config import UserError, load
from jssl.data.files import Damaged, Unreachable
from jssl.parallel import agreement
from jssl.training import loggers, rollback
from jssl.workdir import claim, identity, lock, run_folder
from jssl.workdir.checkpoint import Checkpoints

OTHERS = ("configs/mae_imagenette.py:tiny", "configs/gpt_small_books.py:tiny")


def restored(folder, stored, **changes):
    saves = opened(folder, stored, **changes)
    try:
        return int(saves.restore(shapes_of(state_of(0))).step)
    finally:
        saves.close()


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """The folders `a` and `b` of two runs of one config, and what their config.json hold."""
    return tmp_path / "a", tmp_path / "b", begun(tmp_path / "a"), begun(tmp_path / "b", steps=(2,))


def swap(two, name: str, step: str = "4"):
    """Puts step 2 of run b in the place of a step of run a."""
    a, b, *_ = two
    if (a / "checkpoints" / step).exists():
        (a / "checkpoints" / step).rename(a / "away")
    (b / "checkpoints" / "2").rename(a / "checkpoints" / name)


def test_a_checkpoint_of_another_run_is_set_aside_by_name(two, caplog):
    a, _, stored, _ = two
    swap(two, "2", step="2")
    swapped = a / "checkpoints" / "2"
    (a / "checkpoints" / "4").rename(a / "4")
    with pytest.raises(UserError, match=r"2: it is of run \w{8}, and config.json of \w{8}"):
        restored(a, stored)
    assert swapped.is_dir(), "nothing is moved while none is left"
    (a / "4").rename(a / "checkpoints" / "1")
    with pytest.raises(UserError, match="1: it holds step 4|2: it is of run"):
        restored(a, stored)
    (a / "checkpoints" / "1").rename(a / "checkpoints" / "4")
    assert restored(a, stored) == 4


def test_a_step_in_the_folder_of_another_is_never_used(two, caplog):
    """R5's members: copied to a later step, renamed; the cure that is named is right."""
    a, _, stored, _ = two
    (a / "checkpoints" / "4").rename(a / "checkpoints" / "999")
    with caplog.at_level(logging.WARNING, "jssl"):
        assert restored(a, stored) == 2
    assert "checkpoint 999 cannot be read and is set aside: it holds step 4" in caplog.text
    (a / "checkpoints" / "damaged-999").rename(a / "checkpoints" / "4")
    assert restored(a, stored) == 4, "as the message proposes"


def test_a_note_is_of_the_step_that_its_folder_is_named_after(two):
    """Before the state is read, which may be large."""
    a, _, stored, _ = two
    mark, folder = identity.mark_of(stored), a / "checkpoints" / "4"
    assert identity.check_note(folder, 4, mark)["step"] == 4
    with pytest.raises(Damaged, match="it holds step 4; if it is that one, rename it so"):
        identity.check_note(folder, 999, mark)


def test_a_checkpoint_of_another_config_is_not_used(two):
    """The id alone is not enough: a workdir that was copied, and trained on with other keys."""
    a, _, stored, _ = two
    other = stored | {"digest": "0" * 64}
    with pytest.raises(UserError, match="trained with another config than config.json holds"):
        restored(a, other)
    assert restored(a, other | {"earlier": [{"digest": stored["digest"], "steps": 2}]}) == 4


def test_the_state_itself_is_of_the_step_that_it_should_be(tmp_path):
    folder = tmp_path / "a"
    stored = begun(folder, steps=(2,))
    saves = opened(folder, stored)
    saves.save(4, state_of(3))
    saves.close()
    assert restored(folder, stored) == 2


def test_a_save_beside_a_later_step_is_an_error(two):
    a, _, stored, _ = two
    for step in (3, 4):
        saves = opened(a, stored)
        with pytest.raises(UserError, match="could not be saved, because checkpoints/4 lies there"):
            saves.save(step, state_of(step))
        saves.close()
    (a / "checkpoints" / "4").rename(a / "away")  # as the message proposes
    save(a, stored, [3])
    assert restored(a, stored) == 3


@pytest.mark.parametrize("form", [1, 2, 4, "3", None])
def test_a_workdir_of_another_format_is_refused(tmp_path, form):
    folder = tmp_path / "a"
    stored = begun(folder)
    (folder / "config.json").write_text(json.dumps(stored | {"format": form}))
    with pytest.raises(UserError, match="this jssl reads and writes 3; use the jssl that wrote it"):
        claim.TrainingFolder(folder).open(load(TINY))


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EACCES", "EIO", "ESTALE"])
@pytest.mark.parametrize(
    "where", ["jssl.workdir.checksums.open_regular", "jssl.data.files.open_regular"]
)
def test_a_read_error_is_no_damage(two, name, where, monkeypatch):
    a, _, stored, _ = two
    number = getattr(__import__("errno"), name)

    def fail(path, *given, **more):
        raise OSError(number, os.strerror(number), str(path))

    saves = opened(a, stored)
    before = sorted(a.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(Unreachable, match="cannot be read now .*start again"):
            saves.restore(shapes_of(state_of(0)))
    assert sorted(a.rglob("*")) == before
    assert int(saves.restore(shapes_of(state_of(0))).step) == 4
    saves.close()


SAID = {
    "Error opening: [OS error 13: EACCES] [source]": Unreachable,
    "[OS error 116: ESTALE Stale file handle]": Unreachable,
    "RESOURCE_EXHAUSTED: Out of memory allocating": Unreachable,
    "Checksum mismatch": None,
    "[OS error 2: ENOENT]": None,
}


@pytest.mark.parametrize("said", SAID)
def test_what_libraries_raise_is_told_apart(two, said, monkeypatch, caplog):
    a, _, stored, _ = two
    saves = opened(a, stored)
    real, calls = saves._reader.restore, []

    def fail(path, **given):
        calls.append(path)
        if len(calls) == 1:
            raise Exception(said)
        return real(path, **given)

    monkeypatch.setattr(saves._reader, "restore", fail)
    if SAID[said]:
        with pytest.raises(SAID[said]):
            saves.restore(shapes_of(state_of(0)))
        assert (a / "checkpoints" / "4").is_dir()
    else:
        assert int(saves.restore(shapes_of(state_of(0))).step) == 2
        assert (a / "checkpoints" / "damaged-4").is_dir()
    saves.close()


def running(a, stored, monkeypatch, times: int):
    """While a reader looks at a checkpoint, so many times, the run deletes it and saves another."""
    real, left = Checkpoints._check, [times]

    def check(self, step, folder, shapes):
        if self.read_only and left[0]:
            left[0] -= 1
            writer = opened(a, stored, keep_latest=1)
            writer.save(step + 1, state_of(step + 1))
            writer.close()
        return real(self, step, folder, shapes)

    monkeypatch.setattr(Checkpoints, "_check", check)


def test_a_reader_follows_a_run_that_deletes(two, monkeypatch, caplog):
    a, _, stored, _ = two
    running(a, stored, monkeypatch, 3)
    with caplog.at_level(logging.WARNING, "jssl"):
        assert restored(a, stored, read_only=True) == 7
    assert "cannot be read" not in caplog.text
    assert not list((a / "checkpoints").glob("damaged-*"))


def test_a_reader_that_is_always_late_says_so(two, monkeypatch):
    a, _, stored, _ = two
    monkeypatch.setattr("jssl.workdir.checkpoint.TRIES", 2)
    running(a, stored, monkeypatch, 9)
    with pytest.raises(UserError, match="larger config.checkpoint.keep_latest"):
        restored(a, stored, read_only=True)


# -- retention -------------------------------------------------------------------------------------


def kept(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))


def test_a_score_may_come_after_its_checkpoint(tmp_path):
    stored = begun(tmp_path / "a", steps=())
    saves = opened(tmp_path / "a", stored, keep_latest=1, keep_best=1)
    for step, score in ((1, 0.2), (2, 0.9), (3, float("nan")), (4, 0.1), (5, None)):
        saves.save(step, state_of(step))
        if score is not None:
            saves.score(step, score)
    saves.close()
    assert kept(tmp_path / "a") == [2, 5]
    saves = opened(tmp_path / "a", stored, keep_latest=1, keep_best=1)
    saves.save(6, state_of(6), 0.5)
    saves.close()
    assert kept(tmp_path / "a") == [2, 6], "the scores are remembered"


def test_what_cannot_be_deleted_is_a_warning(tmp_path, monkeypatch, caplog):
    stored = begun(tmp_path / "a", steps=(1,))
    saves = opened(tmp_path / "a", stored, keep_latest=1)
    rename = pathlib.Path.rename

    def refuse(self, target):
        if ".deleted" in str(target):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    for step in (2, 3, 4):
        saves.save(step, state_of(step))
    saves.close()
    assert kept(tmp_path / "a") == [1, 2, 3, 4]
    assert caplog.text.count("checkpoint 1 is kept, it cannot be deleted") == 1


def test_a_step_that_is_a_link_is_read_and_stays(tmp_path, caplog):
    """And links that look half written, which Orbax would fail to delete."""
    folder = tmp_path / "a"
    stored = begun(folder, steps=(1,))
    (folder / "checkpoints" / "1").rename(tmp_path / "big")
    (folder / "checkpoints" / "1").symlink_to(tmp_path / "big")
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp").symlink_to(tmp_path / "b")
    (folder / "checkpoints" / ".deleted-0").mkdir()
    assert restored(folder, stored) == 1
    saves = opened(folder, stored, keep_latest=1)
    for step in (2, 3):
        saves.save(step, state_of(step))
    saves.close()
    assert kept(folder) == [1, 3] and (tmp_path / "big" / "state").is_dir()
    assert "checkpoint 1 is kept" in caplog.text
    assert not (folder / "checkpoints" / ".deleted-0").exists()


# -- the folder ------------------------------------------------------------------------------------


def test_a_start_that_saved_nothing_does_not_claim_the_folder(tmp_path, caplog):
    folder = tmp_path / "a"
    stored = begun(folder, steps=())
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert content(folder)["run"] == stored["run"], "the same config goes on with its id"
    other = load(TINY, {"seed": "7"})
    claim.TrainingFolder(folder).open(other)
    new = content(folder, other)
    assert new["run"] != stored["run"]
    with_content(folder, new).clear()
    with_content(folder, new).claim()
    left = folder / f"unsaved-{stored['run'][:8]}"
    assert (left / "metrics.jsonl").exists() and not (folder / "metrics.jsonl").exists()
    save(folder, new, [2])
    with pytest.raises(UserError, match="config.seed=7, not 0"):
        claim.TrainingFolder(folder).open(load(TINY))


@pytest.mark.parametrize(("number", "stays"), [(errno.EBUSY, True), (errno.EIO, False)])
def test_a_mount_in_the_folder_stays_where_it_is(tmp_path, monkeypatch, caplog, number, stays):
    """TensorBoard's folder may be one."""
    folder = tmp_path / "a"
    (folder / "tensorboard").mkdir(parents=True)

    def refused(path, target):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(pathlib.Path, "rename", refused)
    if stays:
        with_content(folder, content(folder)).clear()
        assert f"{folder}/tensorboard stays where it is: Device or resource busy" in caplog.text
    else:
        with pytest.raises(OSError):
            with_content(folder, content(folder)).clear()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"config": 3}'])
def test_a_config_that_nobody_used_does_not_block(tmp_path, damage):
    folder = tmp_path / "a"
    begun(folder, steps=())
    (folder / "config.json").write_text(damage)
    claim.TrainingFolder(folder).open(load(TINY))
    with_content(folder, stored := content(folder)).claim()
    save(folder, stored, [2])
    (folder / "config.json").write_text(damage)
    with pytest.raises(UserError, match="config.json cannot be read"):
        claim.TrainingFolder(folder).open(load(TINY))


@pytest.mark.parametrize("recipe", OTHERS)
def test_another_recipe_is_named_by_its_method(tmp_path, recipe):
    begun(tmp_path / "a", steps=(2,))
    with pytest.raises(UserError, match="holds a run with config.method='simclr', not '(mae|gpt)'"):
        claim.TrainingFolder(tmp_path / "a").open(load(recipe))


@pytest.mark.parametrize("name", ["checkpoints/2", "checkpoints/damaged-2-1", "result.json"])
def test_parts_without_a_config_are_refused(tmp_path, name):
    begun(tmp_path / "a", steps=(2,))
    (tmp_path / "a" / "config.json").unlink()
    (tmp_path / "a" / "checkpoints" / "2").rename(tmp_path / "2")
    path = tmp_path / "a" / name
    path.touch() if path.suffix else path.mkdir()
    with pytest.raises(UserError, match="no config.json that says of which run; restore"):
        claim.TrainingFolder(tmp_path / "a").open(load(TINY))


def test_a_config_of_another_run_or_one_that_was_edited(two):
    a, b, stored, _ = two
    before = (a / "config.json").read_text()
    (a / "config.json").write_text((b / "config.json").read_text())
    with pytest.raises(UserError, match="it is of run"):
        restored(a, run_folder.RunFolder(a).stored())
    (a / "config.json").write_text(before.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match="config was changed after the run began"):
        claim.TrainingFolder(a).open(load(TINY, {"seed": "1"}))
    for other in (2, 4):
        (a / "config.json").write_text(before.replace('"format": 3', f'"format": {other}'))
        words = f"is of format {other}, and this jssl reads and writes 3; use the jssl"
        with pytest.raises(UserError, match=words):
            claim.TrainingFolder(a).open(load(TINY))


def test_a_result_of_another_run_is_not_printed(two):
    a, b, stored, other = two
    assert with_content(a, stored).write_result({"step": 4}) == {"step": 4}
    assert run_folder.RunFolder(a).result() == {"step": 4}
    with_content(b, other).write_result({"step": 2})
    (b / "result.json").rename(a / "result.json")
    with pytest.raises(UserError, match="result.json is of run .* and config.json of"):
        run_folder.RunFolder(a).result()
    (a / "result.json").write_text('{"step": 9}')
    with pytest.raises(UserError, match="result.json is of run nobody"):
        run_folder.RunFolder(a).result()


def test_other_data_is_refused_until_it_is_said(two):
    a, *_ = two
    with pytest.raises(UserError, match="the data set has changed .* add --changed-data"):
        content(a, data="bb")
    stored = content(a, data="bb", changed_data=True)
    with_content(a, stored).claim()
    assert content(a, data="bb") == stored, "the cure works, and is remembered"
    assert content(a, data="") == stored, "a source without a fingerprint is not asked"


def test_flags_that_change_numbers_are_kept(two, monkeypatch):
    a, *_ = two
    for name, value, cure in (
        ("jax_enable_x64", True, "JAX_ENABLE_X64=0"),
        ("jax_default_prng_impl", "rbg", "JAX_DEFAULT_PRNG_IMPL=threefry2x32"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(identity, "numbers", lambda n=name, v=value: {n: v})
            with pytest.raises(UserError, match=f"{name}=.*set {cure} to go on"):
                content(a)
    assert content(a)


def test_a_run_is_extended_only_if_asked(two):
    a, _, stored, _ = two
    longer = load(TINY, {"steps": "20"})
    with_content(a, stored).write_result({"step": 6})
    with pytest.raises(UserError, match="config.steps=6, not 20; add --extend"):
        claim.TrainingFolder(a).open(longer)
    claim.TrainingFolder(a).open(longer, extend=True)
    assert run_folder.RunFolder(a).result(20) is None and run_folder.RunFolder(a).result(6) == {
        "step": 6
    }
    new = content(a, longer, extend=True)
    with_content(a, new).claim()
    assert not (a / "result.json").exists() and (a / "result-6.json").exists()
    assert restored(a, new) == 4, "its checkpoints are still its own"
    claim.TrainingFolder(a).open(longer)
    assert content(a, longer) == new
    (a / "result-6.json").rename(a / "result.json")  # killed between the two
    assert run_folder.RunFolder(a).result(20) is None
    for steps, why in (("6", "config.steps=20, not 6"), ("20", None)):
        config = load(TINY, {"steps": steps})
        if why:
            with pytest.raises(UserError, match=why):
                claim.TrainingFolder(a).open(config, extend=True)
        else:
            claim.TrainingFolder(a).open(config, extend=True)
    with pytest.raises(UserError, match="no run to extend"):
        claim.TrainingFolder(a.parent / "none").open(longer, extend=True)


# -- links, pipes and garbage ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "result.json", "skipped_data.json", "checkpoints"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_parts_that_say_whose_it_is_are_no_links(tmp_path, name, kind):
    folder = tmp_path / "a"
    begun(folder, steps=(2,))
    victim = tmp_path / "victim"
    if (folder / name).exists():
        (folder / name).rename(victim)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(victim if kind == "link" else tmp_path / "nothing")
    with pytest.raises(UserError, match=f"{name} is (a link|not what jssl writes)"):
        claim.TrainingFolder(folder).open(load(TINY))


@pytest.mark.parametrize("name", [*claim.FILES, *claim.FOLDERS, *claim.TRACKERS])
def test_links_are_moved_out_of_the_way_of_what_is_written(tmp_path, name, caplog):
    folder, victim = tmp_path / "a", tmp_path / "victim"
    stored = begun(folder, steps=(2,))
    victim.write_text("precious") if name in claim.FILES else victim.mkdir()
    (folder / name).symlink_to(victim)
    with_content(folder, stored).clear()
    assert not os.path.lexists(folder / name) and (folder / f"aside-{name}").is_symlink()
    assert name in caplog.text and victim.exists()
    if name in claim.FOLDERS:  # a link at any depth below
        (folder / name / "x").mkdir(parents=True)
        (folder / name / "x" / "y").symlink_to(victim)
        with_content(folder, stored).clear()
        assert not (folder / name).exists() and (folder / f"aside-{name}-1").is_dir()


def test_a_lock_or_a_file_to_be_written_is_no_way_out(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match=r"\.lock is no lock \(it is a link\); delete it"):
        lock.exclusive_lock(tmp_path).__enter__()
    (tmp_path / ".lock").unlink()
    with lock.exclusive_lock(tmp_path):
        pass
    for name in ("nonfinite.json", "config.part"):
        (tmp_path / name).symlink_to(victim)
    run_folder.write(tmp_path / "nonfinite.json", {})
    with_content(tmp_path, content(tmp_path)).claim()
    assert victim.read_text() == "precious"


GARBAGE = {
    "bytes": b"\xff\xfe\x00\x80\n",
    "a number": b"7\n",
    "null": b"null\n",
    "nesting": b"[" * 100_000 + b"\n",
    "no step": b'{"loss": 3}\n',
    "step of text": b'{"step": "x", "loss": 3}\n',
    "cut off": b'{"step": 3, "lo\n',
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_metrics_never_block_a_restart(tmp_path, kind):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n' + GARBAGE[kind] + b'\n{"step": 4, "loss": 2}')
    assert loggers.newest(tmp_path, 9)["loss"] == (4, 2)
    assert loggers.newest(tmp_path, 2)["loss"] == (1, 1.0), "not of steps that are no more"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_metrics_that_are_no_file(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    assert loggers.newest(tmp_path, 9) == {}


@pytest.mark.parametrize("name", ["caf\udce9", "a\0b"])
def test_names_that_no_library_takes(tmp_path, name):
    with pytest.raises(UserError, match="rename that folder|holds a NUL"):
        claim.TrainingFolder(f"{tmp_path}/{name}").open(load(TINY))


WRONG = ([[-5, -3]], [[3, 0]], [[3, -1]], [[7, 2]], [[3, 2**40]], [[True, 1]], [[1.0, 1]], [3], {})


@pytest.mark.parametrize("known", WRONG)
def test_passes_are_within_the_run(tmp_path, known):
    (tmp_path / "skipped_data.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="skipped_data.json cannot be read"):
        rollback.skipped_ranges(tmp_path, 6)


@pytest.mark.parametrize(
    ("known", "before", "step", "fits"),
    [
        ([], [], 4, True),
        ([[6, 3]], [], 4, True),
        ([[6, 3]], [[6, 3]], 8, True),
        ([[6, 3], [8, 9]], [[6, 3]], 8, True),
        ([], [[6, 3]], 8, False),
        ([[6, 4]], [[6, 3]], 8, False),
        ([[2, 3]], [], 4, False),
        ([[6, 3], [2, 9]], [[6, 3]], 8, False),
    ],
)
def test_passes_fit_the_checkpoint(tmp_path, known, before, step, fits):
    note = {"passed": before}
    if fits:
        assert rollback.check_passed(tmp_path, known, note, step) == known
    else:
        with pytest.raises(
            UserError, match="skipped_data.json holds .* restore the one that belongs"
        ):
            rollback.check_passed(tmp_path, known, note, step)


# -- several processes -----------------------------------------------------------------------------


@pytest.fixture
def pair(monkeypatch):
    """pair(change): what this process says, and what another one does, which `change` makes."""

    def of(change):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(agreement, "everywhere", lambda mine: [mine, change(mine)])

    return of


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config.optim.lr", 0.5),
        ("config.steps", 30),
        ("config.checkpoint.every", 7),
        ("config.mesh.fsdp", 2),
        ("config.eval.every", 9),
        ("config.log.every", 3),
        ("--extend", True),
        ("jax", "0.0.1"),
        ("orbax-checkpoint", "0.0.1"),
        ("jax_enable_x64", True),
        ("the source of jssl", "another"),
        ("config.only_there", 1),
    ],
)
def test_processes_that_are_told_different_things(pair, key, value):
    def facts():
        return claim.common(load(TINY), **{"--extend": False})

    pair(lambda mine: mine)
    agreement.check(facts)
    pair(lambda mine: mine | {key: value})
    with pytest.raises(UserError, match=rf"{key}=.* on process 0 and {value!r} on process 1"):
        agreement.check(facts)


def test_hosts_may_have_their_own_paths_and_methods_come_first(pair):
    there = {f"data.{key}": "/elsewhere" for key in ("path", "dir")} | {"data.workers": "3"}
    other = claim.common(load(TINY, there))
    pair(lambda mine: other)
    agreement.check(lambda: claim.common(load(TINY)))
    other = claim.common(load(OTHERS[0]))
    pair(lambda mine: other)
    with pytest.raises(UserError, match="^config.method='simclr' on process 0 and 'mae' on"):
        agreement.check(lambda: claim.common(load(TINY)))


def failing(error):
    def local():
        raise error

    return local


@pytest.mark.parametrize(
    ("mine", "other", "wanted"),
    [
        (None, UserError("no folder"), (UserError, "process 1: no folder")),
        (None, Damaged("x", "cut off"), (Damaged, "process 1: cut off")),
        (None, Unreachable("x", "EIO"), (Unreachable, "process 1: EIO")),
        (None, KeyError("k"), (ValueError, "process 1: KeyError: 'k'")),
        (Damaged("x", "cut off"), Unreachable("x", "EIO"), (Unreachable, "process 1: EIO")),
        (UserError("mine"), UserError("other"), (UserError, "^mine$")),
        (KeyError("k"), None, (KeyError, "k")),
    ],
)
def test_an_error_of_one_process_is_one_of_all(pair, mine, other, wanted):
    pair(lambda said: agreement._packed(other))
    kind, text = wanted
    with pytest.raises(kind, match=text):
        agreement.run_on_all_processes(failing(mine) if mine else lambda: 3)
    pair(lambda said: said)
    assert agreement.run_on_all_processes(lambda: 3) == 3
