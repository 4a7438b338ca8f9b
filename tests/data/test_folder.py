"""Which images a folder holds, which of its folders are splits, and what is said of the rest."""

import errno
import io
import logging
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from helpers.folders import PNG, make, names, opened, picture
from PIL import Image

from jssl.config import UserError
from jssl.data import files
from jssl.data.decode import Unreadable
from jssl.data.sources import folder


def test_more_formats_are_read(tmp_path):
    for name, format in {"a.JFIF": "JPEG", "b.ppm": "PPM", "c.jpe": "JPEG"}.items():
        make(tmp_path, name, content=picture(format))
    gray = io.BytesIO()
    Image.new("L", (6, 5), 99).save(gray, "PPM")
    make(tmp_path, "d.pgm", content=gray.getvalue())
    if ".avif" in folder.extensions():
        make(tmp_path, "e.avif", content=picture("AVIF", (16, 16)))
    source = opened(tmp_path)
    batch = source.read(np.arange(len(source)))
    assert len(source) == 4 + (".avif" in folder.extensions())
    assert (batch["damaged"] < 0).all() and batch["image"].max() > 90


def test_photos_of_phones_are_named_with_the_cure(tmp_path, monkeypatch, caplog):
    make(tmp_path, "a.png", "b.HEIC", "c.heif")
    monkeypatch.setattr(folder, "extensions", lambda: folder.EXTENSIONS)
    assert names(opened(tmp_path)) == ["a.png"]
    assert "2 .heic images" in caplog.text and "[heic]" in caplog.text


def test_labels_are_announced_and_what_is_passed_over(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="jssl")
    make(tmp_path, "dog/1.png", "cat/2.png", "cat/notes.csv")
    assert opened(tmp_path).classes == ["cat", "dog"]
    assert "labels: 2 classes from folder names (cat, dog)" in caplog.text
    assert "2 images" in caplog.text and "1 .csv" in caplog.text


def test_one_class_in_two_forms_of_unicode(tmp_path):
    make(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png", "bar/3.png")
    source = opened(tmp_path)
    assert source.classes == ["bar", "caf\u00e9"]
    assert sorted(source.read(np.arange(3))["label"].tolist()) == [0, 1, 1]


def test_a_class_that_may_not_be_listed_keeps_its_number(tmp_path, monkeypatch, caplog):
    make(tmp_path, *(f"{name}/{k}.png" for name in "abc" for k in range(2)))
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    whole = opened(tmp_path)
    monkeypatch.setattr(os, "scandir", scandir)
    source = opened(tmp_path)
    assert len(source) == 4 and source.classes == whole.classes == ["a", "b", "c"]
    assert source.read(np.arange(4))["label"].tolist() == [0, 0, 2, 2]
    assert "1 unreadable folder (b)" in caplog.text


# -- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "split", "right"),
    [
        (["Train/a/1.png", "TEST/a/2.png"], "train[:50%]", None),
        (["Train/a/1.png", "TEST/a/2.png"], "train", "Train/a/1.png"),
        (["Training/a/1.png", "Testing/a/2.png"], "test", "Testing/a/2.png"),
        (["training/1.png", "validation/2.png"], "val", "validation/2.png"),
        (["train2017/1.png", "val2017/2.png"], "validation", "val2017/2.png"),
        (["unlabeled/1.png", "train/2.png"], "unlabeled", "unlabeled/1.png"),
        (["a/1.png", "b/1.png"], "training", "a/1.png"),
        (["images/train/1.png", "images/val/2.png"], "images/val", "images/val/2.png"),
    ],
)
def test_splits_however_they_are_spelled(tmp_path, made, split, right):
    root = make(tmp_path, *made)
    if right is None:  # half of one image is none
        with pytest.raises(UserError, match="holds none"):
            opened(root, split)
    else:
        assert os.path.relpath(opened(root, split).describe(0), root) == right


@pytest.mark.parametrize(
    ("made", "split", "cure"),
    [
        (["test/a/1.png", "val/b/2.png"], "train", {"split": "test"}),
        (["cat/1.png", "dog/2.png", "TEST/3.png"], "train", {"split": "TEST"}),
        (["train/a/1.png", "val/b/2.png"], "test", {"split": "train"}),
        (["cat/1.png", "dog/2.png"], "test", {"split": "train"}),
        (["images/train/1.png", "images/val/2.png"], "train", {"path": "images"}),
        (["b/train/ok/1.png", "b/test/ok/2.png", "c/train/3.png"], "train", {"path": "b"}),
        (["train2014/1.png", "train2017/2.png"], "train", {"split": "train2014"}),
    ],
)
def test_splits_are_never_one_pile_and_the_cure_works(tmp_path, made, split, cure):
    root = make(tmp_path, *made)
    with pytest.raises(UserError) as refused:
        opened(root, split)
    key, value = next(iter(cure.items()))
    value = os.path.join(root, value) if key == "path" else value
    said = str(refused.value)
    assert f"use --config.data.{key}={value}" in said and "cat" not in said
    assert len(opened(value, split) if key == "path" else opened(root, value))


def test_the_split_that_lies_beside_the_folder_is_proposed(tmp_path):
    root = make(tmp_path, "Train/a/1.png", "Train/b/2.png", "Test/a/3.png")
    with pytest.raises(UserError, match=rf"--config.data.path={root}, which has the folder Test"):
        opened(f"{root}/Train", "test")
    assert len(opened(root, "test")) == 1


def test_what_lies_beside_a_split_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="jssl")
    opened(make(tmp_path, "train/1.png", "test/2.png", "more/3.png"))
    assert "only its folder train is read, and not more" in caplog.text


# -- what is no folder ---------------------------------------------------------------------------


def test_archives_and_single_files_are_told_from_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("1.png", PNG)
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(make(tmp_path / "in", "1.png"), "in")
    make(tmp_path, "one.png", "notes.xyz")
    said = {}
    for name in ("set.zip", "set.tar.gz", "one.png", "notes.xyz", "missing", "one.png/x"):
        with pytest.raises(UserError, match="data.path=") as refused:
            opened(tmp_path / name)
        said[name] = str(refused.value)
    assert f"zip archive; unpack it (unzip {tmp_path}/set.zip -d {tmp_path}/set)" in said["set.zip"]
    assert f"-C {tmp_path}/set)" in said["set.tar.gz"] and "tar archive" in said["set.tar.gz"]
    assert f"holds the images: --config.data.path={tmp_path}" in said["one.png"]
    assert "it is a file" in said["notes.xyz"]
    assert "no such folder" in said["missing"] and "no such folder" in said["one.png/x"]
    assert "\n" not in "".join(said.values())


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    make(tmp_path, "a.svg", "b.svg", "c.npy")
    with pytest.raises(UserError, match=r"no image lies below it .*2 \.svg, 1 \.npy.*\.jpg"):
        opened(tmp_path)


# -- reading -------------------------------------------------------------------------------------


def fails(monkeypatch, number, times, name):
    """The system's answer `number` to so many openings of the file."""
    real, left = os.open, [times]

    def refuse(path, *rest, **more):
        if os.path.basename(path) == name and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), path)
        return real(path, *rest, **more)

    monkeypatch.setattr(folder, "PAUSES", (0, 0))
    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_read_error_that_passes_is_no_damage(number, tmp_path, monkeypatch):
    make(tmp_path, "a.png", "b.png")
    source = opened(tmp_path)
    fails(monkeypatch, number, 2, "a.png")
    assert source.read(np.arange(2))["damaged"].tolist() == [-1, -1]
    fails(monkeypatch, number, 3, "b.png")
    with pytest.raises(files.Unreachable, match=r"b\.png cannot be read now .*start again") as met:
        source.read(np.arange(2))
    again = pickle.loads(pickle.dumps(met.value))  # as it comes from a worker process
    assert type(again) is files.Unreachable and str(again) == str(met.value)


def test_a_file_for_other_users_is_an_unreadable_example(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "b.png")
    source = opened(tmp_path)
    fails(monkeypatch, errno.EACCES, 99, "a.png")
    batch = source.read(np.arange(2))
    assert batch["damaged"].tolist() == [0, -1]


def test_a_substitute_brings_no_label(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    make(tmp_path, "b/2.png", content=b"broken")
    assert opened(tmp_path).read(np.arange(3))["label"].tolist() == [0, -1, 1]


def test_enormous_files_and_pipes_are_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**40)  # sparse
    os.mkfifo(tmp_path / "b.png")
    for name, reason in (("a.png", "limit"), ("b.png", "no regular file"), ("c.png", "no such")):
        with pytest.raises(Unreadable, match=reason):
            folder.read_patiently(str(tmp_path / name))


# -- which data it is ----------------------------------------------------------------------------


def test_a_fingerprint_is_of_names_and_sizes_and_not_of_the_place(tmp_path):
    contents = {"a/1.png": PNG, "b/2.png": PNG, "b/3.png": picture(size=(9, 9))}
    for copy in ("x", "y"):
        for name, content in contents.items():
            make(tmp_path / copy, name, content=content)
    first, second = opened(tmp_path / "x"), opened(tmp_path / "y")
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 64
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
    found = {first.fingerprint, opened(tmp_path / "x", "train[:67%]").fingerprint}
    (tmp_path / "y" / "b" / "2.png").rename(tmp_path / "y" / "b" / "4.png")
    found.add(opened(tmp_path / "y").fingerprint)
    make(tmp_path / "x", "a/1.png", content=PNG + b"more")
    found.add(opened(tmp_path / "x").fingerprint)
    assert len(found) == 4
