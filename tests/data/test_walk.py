"""One walker for the files of every kind of data, and the names of splits."""

import errno
import json
import logging
import os
import socket

import pytest

from jssl.config import UserError
from jssl.data import files, splits, walk

IMAGES, TEXTS = (".png", ".jpg"), (".txt", ".jsonl", ".txt.gz")


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def a_run(root, *more):
    made = {"config": {"method": "simclr"}, "versions": {"jssl": "1"}}
    make(root, "metrics.jsonl", *more)
    (root / "config.json").write_text(json.dumps(made))


def test_endings_in_any_case_and_what_was_passed_over(tmp_path, caplog):
    make(tmp_path, "b.PNG", "a.jpg", "x/c.Png", "e.jfif", "x/f.JFIF", "g.bmp", "README", ".h.png")
    found = walk.walk(tmp_path, IMAGES)
    assert found.files == ["a.jpg", "b.PNG", "x/c.Png"]
    assert found.passed == {".jfif": 2, ".bmp": 1, "": 1}
    with caplog.at_level(logging.INFO, logger="jssl"):
        found.announce("images")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "3 images" in line and "2 .jfif" in line and "1 without an ending" in line


def test_endings_of_two_parts(tmp_path):
    make(tmp_path, "a.TXT", "b.txt.GZ", "c.JSONL", "d.tar.gz")
    found = walk.walk(tmp_path, TEXTS)
    assert found.files == ["a.TXT", "b.txt.GZ", "c.JSONL"] and found.passed == {".gz": 1}


def test_only_regular_files(tmp_path, monkeypatch):
    """A pipe would block whoever opens it."""
    make(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    listener.bind("d.png")
    (tmp_path / "e.png").symlink_to("nowhere")  # an example that should be there
    found = walk.walk(tmp_path, IMAGES)
    listener.close()
    assert found.files == ["a.png", "e.png"]
    assert sorted(found.special) == ["b.png", "c.png", "d.png"]
    assert "3 pipes or devices (" in found.describe("images")


def test_links_to_folders_and_loops(tmp_path):
    make(tmp_path / "data", "z/a.png", "z/deep/b.png")
    make(tmp_path / "other", "c.png")
    (tmp_path / "data" / "a").symlink_to("z")  # sorts before the folder that it names
    (tmp_path / "data" / "z" / "up").symlink_to("..")
    (tmp_path / "data" / "m").symlink_to(tmp_path / "other")
    (tmp_path / "root").symlink_to("data")
    for root in ("data", "root"):
        found = walk.walk(tmp_path / root, IMAGES)
        assert found.files == ["m/c.png", "z/a.png", "z/deep/b.png"]
        assert sorted(found.again) == ["a", "z/up"]


def test_a_folder_that_holds_a_run_is_passed_over(tmp_path):
    make(tmp_path, "a.png", "b/config.json", "b/c.png", "b/checkpoints/d.png")
    a_run(tmp_path / "runs" / "one", "pictures/e.png", "deep/er/f.png", "g.txt")
    (tmp_path / "runs" / "two").mkdir()
    make(tmp_path / "runs" / "two", "h.png", "result.json")
    (tmp_path / "runs" / "two" / "config.json").write_text("{damaged")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "vit"}')  # somebody else's
    for endings, names in ((IMAGES, ["a.png", "b/c.png", "b/checkpoints/d.png"]), (TEXTS, [])):
        found = walk.walk(tmp_path, endings)
        assert found.files == names and found.runs == ["runs/one", "runs/two"]
    assert "2 folders that hold a run (runs/one, runs/two)" in found.describe("texts")


def test_a_run_in_the_folder_of_the_data_itself(tmp_path):
    a_run(tmp_path, "a.png", "x/b.png", "pictures/c.png", "checkpoints/d.png", "e.txt")
    assert walk.walk(tmp_path, IMAGES).files == ["a.png", "x/b.png"]
    assert walk.walk(tmp_path, TEXTS).files == ["e.txt"]


def test_folders_of_the_system(tmp_path):
    make(tmp_path, "a.png", "@eaDir/b.png", "x/__MACOSX/c.png", ".git/d.png", "lost+found/e.png")
    assert walk.walk(tmp_path, IMAGES).files == ["a.png"]


def refusing(number, name):
    """os.scandir, but for folders of this name."""
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == name:
            raise OSError(number, os.strerror(number), path)
        return real(path)

    return scandir


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch, caplog):
    make(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    monkeypatch.setattr(os, "scandir", refusing(errno.EACCES, "b"))
    found = walk.walk(tmp_path, IMAGES)
    assert found.files == ["a/1.png", "c/3.png"]
    assert found.unreadable == {"b": "Permission denied"}
    with caplog.at_level(logging.WARNING, logger="jssl"):
        found.announce("images")
    assert "1 unreadable folder (b)" in caplog.text
    with pytest.raises(UserError, match=r"data.path=.*b': cannot be read \(Permission denied"):
        walk.walk(tmp_path / "b", IMAGES)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_read_error_that_may_pass_loses_no_folder(number, tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/2.png")
    monkeypatch.setattr(os, "scandir", refusing(number, "b"))
    with pytest.raises(files.Unreachable, match="b cannot be read now .*start again"):
        walk.walk(tmp_path, IMAGES)


def test_a_million_endings_are_not_counted_one_by_one(tmp_path):
    make(tmp_path, *(f"frame.{k:06}" for k in range(1100)), "a.averyveryverylongending")
    found = walk.walk(tmp_path, IMAGES)
    assert found.passed.total() == 1101 and len(found.passed) <= 1001
    assert len(found.describe("images")) < 400


@pytest.mark.parametrize(
    ("wanted", "names", "right"),
    [
        ("train", ["Train", "TEST"], "Train"),
        ("test", ["Training", "Testing"], "Testing"),
        ("validation", ["train", "val"], "val"),
        ("val", ["train", "VALID"], "VALID"),
        ("train", ["train2017", "val2017"], "train2017"),
        ("train", ["train", "Train", "training"], "train"),
        ("test", ["train", "val"], None),
        ("extra", ["train", "Extra"], "Extra"),
        ("caf\u00e9", ["cafe\u0301"], "cafe\u0301"),
        ("train", ["trained", "trainer"], None),
    ],
)
def test_names_of_splits(wanted, names, right):
    assert splits.find_split(wanted, names, "folder") == right


def test_two_folders_of_one_split_are_asked_for():
    with pytest.raises(UserError, match="has train2014, train2017; .*data.split=train2014"):
        splits.find_split("train", ["train2014", "train2017"], "coco")
    assert splits.find_split("train2014", ["train2014", "train2017"], "coco") == "train2014"
