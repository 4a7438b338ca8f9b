"""A run is looked at elsewhere: from another folder, without its data, with a copy of its data."""

import os
import pickle

import chex
import numpy as np
import pytest
from conftest import ROOT, make_mesh
from helpers import image_info, text_info
from helpers.folders import make, opened

from jssl import data
from jssl.config import Config, UserError, load, paths
from jssl.data import fingerprint
from jssl.data.files import Unreachable
from jssl.data.sources import absent, packed, tfds_source
from jssl.evals import language
from jssl.training.setup import setup_run

# -- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "key"), paths.PATHS)
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("img", "/here/img"),
        ("./img/", "/here/img"),
        ("~/img", "/home/me/img"),
        ("/data/img", "/data/img"),
        ("a/../img", "/here/a/../img"),  # a may be a link
        ("texts/**/*.txt", "/here/texts/**/*.txt"),
        ("", ""),
        ("gs://bucket/img", "gs://bucket/img"),
    ],
)
def test_paths_are_stored_absolute(section, key, given, stored, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    monkeypatch.setenv("HOME", "/home/me")
    recipe = "distill_cifar10" if section == "teacher" else "gpt_small_books"
    tree = load(f"{ROOT}/configs/{recipe}.py:tiny", {f"{section}.{key}": given})
    assert paths.absolute(tree)[section][key] == stored
    assert tree[section][key] == given, "the user's config is not changed"


def test_the_tokenizer_of_bytes_is_no_path():
    tree = load("configs/gpt_small_books.py:tiny", {"data.tokenizer": "bytes"})
    assert paths.absolute(tree).data.tokenizer == "bytes"


# -- without the data ----------------------------------------------------------------------------


WHOLE = {"data.split": "train"}


def image_run(path):
    words = {"data.source": "folder", "data.path": path, "data.on_device": "False"} | WHOLE
    return load("configs/simclr_digits.py:tiny", words)


def text_run(path):
    words = {"data.source": "text", "data.path": path, "data.tokenizer": "bytes"} | WHOLE
    return load("configs/gpt_small_books.py:tiny", words)


def write_texts(folder):
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("the quick brown fox jumps over a lazy dog\n" * 60)
    return str(folder)


@pytest.mark.parametrize("kind", ["images", "text"])
def test_the_state_has_the_shapes_of_training_without_the_data(kind, tmp_path):
    if kind == "images":
        tree = image_run(make(tmp_path / "set", *(f"{k:02}.png" for k in range(20))))
    else:
        tree = text_run(write_texts(tmp_path / "set"))
    there = setup_run(Config(tree), make_mesh(1))
    info = there.data_info  # as a workdir has it
    (tmp_path / "set").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="data.path"):
        setup_run(Config(tree), make_mesh(1), data_info=info)
    gone = setup_run(Config(tree), make_mesh(1), data_info=info, training=False)
    assert isinstance(gone.data.source, absent.Absent)
    assert len(gone.data.source) == len(there.data.source)
    chex.assert_trees_all_equal_shapes_and_dtypes(gone.shapes, there.shapes)
    for key, value in there.example.items():
        if key not in ("image", "size", "label"):
            assert gone.example[key].dtype == value.dtype
            assert gone.example[key].shape == value.shape


def test_what_needs_the_data_says_which_key_names_it(tmp_path):
    gone = Config(image_run(str(tmp_path / "gone")))
    gone = setup_run(gone, make_mesh(1), data_info=image_info(), training=False)
    for protocol in ("knn", "finetune"):
        with pytest.raises(
            UserError, match=rf"--protocol='{protocol}': .*--config.data.path=FOLDER"
        ):
            absent.need(gone.data.source, protocol, gone.config)
    tree = image_run("")
    with tree.unlocked():
        tree.data.update({"source": "tfds", "name": "cifar10", "dir": str(tmp_path / "gone")})
    gone = setup_run(Config(tree), make_mesh(1), data_info=image_info(), training=False)
    with pytest.raises(UserError, match="--config.data.dir=FOLDER"):
        absent.need(gone.data.source, "linear", gone.config)


def test_data_that_is_there_and_wrong_is_not_passed_over(tmp_path):
    wrong = make(tmp_path / "set", "notes.md")
    with pytest.raises(UserError, match="no image lies below it"):
        setup_run(Config(image_run(wrong)), make_mesh(1), data_info=image_info(), training=False)
    (tmp_path / "empty").mkdir()  # where something else is mounted at other times
    source = absent.open_or_absent(Config(image_run(str(tmp_path / "empty"))), image_info()).source
    assert isinstance(source, absent.Absent)


def test_a_read_error_is_not_taken_for_absence(tmp_path, monkeypatch):
    def fails(*given, **more):
        raise Unreachable(tmp_path, "Stale file handle")

    monkeypatch.setattr(data, "open_source", fails)
    with pytest.raises(Unreachable):
        absent.open_or_absent(Config(image_run(str(tmp_path / "gone"))), image_info())


def test_a_prompt_needs_the_tokenizer_alone(tmp_path):
    source = absent.open_or_absent(Config(text_run(str(tmp_path / "gone"))), text_info()).source
    batch = language.prompt(source, "the quick", 2)
    assert batch["tokens"].shape == (2, source.length)
    packed_run = text_run(str(tmp_path / "gone"))
    with packed_run.unlocked():
        packed_run.data.update({"source": "packed", "tokenizer": ""})
    source = absent.open_or_absent(Config(packed_run), text_info()).source
    with pytest.raises(UserError, match=r"eval.prompt='the': .*--config.data.tokenizer=FILE"):
        language.prompt(source, "the", 2)


# -- which data it is ----------------------------------------------------------------------------


def arrays(seed=0, n=200, labels=True):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n) if labels else None
    if labels:
        label[:3] = range(3)
    return packed.arrays(rng.integers(0, 256, (n, 4, 4, 3), np.uint8), label, "arrays", "train")


def test_a_packed_set_is_known_by_its_content(tmp_path):
    first = arrays()
    for name in ("x", "y"):
        packed.pack(first, str(tmp_path / name), lambda done, total: None)
    x, y = (packed.open_packed(str(tmp_path / name), "train") for name in "xy")
    assert x.fingerprint == y.fingerprint == pickle.loads(pickle.dumps(x)).fingerprint
    halves = [
        packed.open_packed(str(tmp_path / "x"), f"train[{part}]") for part in (":50%", "50%:")
    ]
    other = [arrays(1), arrays(n=201), arrays(labels=False), *halves]
    assert len({x.fingerprint, *(source.fingerprint for source in other)}) == 6


def test_splits_of_packed_sets_however_they_are_spelled(tmp_path):
    for name in ("Train", "VAL"):
        packed.pack(arrays(), str(tmp_path / name), lambda done, total: None)
    for split, folder in (("train", "Train"), ("validation", "VAL"), ("val[:50%]", "VAL")):
        assert packed.locate(str(tmp_path), split) == str(tmp_path / folder)
    with pytest.raises(UserError, match="data.split='test': .*use --config.data.split=Train"):
        packed.locate(str(tmp_path), "test")


def test_records_are_known_by_their_files(tmp_path):
    class Instruction:
        def __init__(self, name, skip=0, take=5, content=b"12345"):
            self.filename = tmp_path / name
            self.filename.parent.mkdir(exist_ok=True)
            self.filename.write_bytes(content)
            self.skip, self.take, self.examples_in_shard = skip, take, 10

    def one(*given, about="cifar10/3.0.2", **more):
        return fingerprint.of_records([Instruction(*given, **more)], about)

    assert one("x/train-0") == one("y/train-0")
    others = [one("x/train-1"), one("x/train-0", 5), one("x/train-0", about="cifar10/3.0.1")]
    others.append(one("x/train-0", content=b"123456"))
    assert len({one("x/train-0"), *others}) == 5


def test_prepared_sets_have_fingerprints(real_data):
    def opened_(split):
        return tfds_source.open_tfds("cifar10", str(real_data), split, 32, 3)

    found = [opened_(split).fingerprint for split in ("train", "train", "test", "train[:50%]")]
    assert found[0] == found[1] and len(set(found)) == 3


def test_a_read_error_changes_no_fingerprint(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "b.png")
    source, real = opened(tmp_path), os.stat
    (tmp_path / "b.png").unlink()  # gone is another data set

    def stale(path, *rest, **more):
        if os.path.basename(path) == "a.png":
            raise OSError(116, "Stale file handle")
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(Unreachable, match=r"a\.png cannot be read now"):
        _ = source.fingerprint
    monkeypatch.setattr(os, "stat", real)
    assert len(source.fingerprint) == 64
