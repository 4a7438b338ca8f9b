"""`jssl data prepare`: sets of TFDS made, and converted, without TensorFlow."""

import json
import struct
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jssl import cli
from jssl.config import UserError
from jssl.data import prepare
from jssl.data.sources import tfds_source


class TinyJsslSet(tfds.core.GeneratorBasedBuilder):
    """Seven images as arrays, which TFDS itself hands to TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 6, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for k in range(7):
            yield k, {"image": np.full((4, 6, 3), 10 * k, np.uint8), "label": k % 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder in which the set was prepared, by the command."""
    root = tmp_path_factory.mktemp("sets")
    assert cli.main(["data", "prepare", "--name=tiny_jssl_set", f"--dir={root}"]) == 0
    return root


def values(root):
    source = tfds_source.open_tfds("tiny_jssl_set", str(root), "train", 8, 3)
    batch = source.read(np.arange(len(source)))
    return sorted(zip(batch["image"][:, 0, 0, 0].tolist(), batch["label"].tolist(), strict=True))


EXPECTED = [(10 * k, k % 2) for k in range(7)]


def test_a_set_is_prepared_without_tensorflow(made):
    assert values(made) == EXPECTED
    assert "tensorflow" not in sys.modules
    again = prepare.prepare("tiny_jssl_set", str(made))
    assert again["splits"] == {"train": 7}


def as_tfrecord(root, harm=lambda raw: raw):
    """The prepared set as it is where TensorFlow made it."""
    folder = root / "tiny_jssl_set" / "1.0.0"
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.glob("*.array_record*"):
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        raw = b"".join(struct.pack("<QI", len(r), 0) + r + b"\0" * 4 for r in records)
        path.unlink()
        (folder / path.name.replace("array_record", "tfrecord")).write_bytes(harm(raw))
    text = (folder / "dataset_info.json").read_text().replace("array_record", "tfrecord")
    (folder / "dataset_info.json").write_text(text)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    import shutil

    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_tfrecord_is_named_with_a_conversion_that_works(copied, capfd):
    folder = as_tfrecord(copied)
    with pytest.raises(UserError, match="prepared as tfrecord.*: jssl data prepare ") as caught:
        values(copied)
    words = str(caught.value).partition("jssl ")[2].split()
    assert cli.main(words) == 0
    assert json.loads(capfd.readouterr().out)["splits"] == {"train": 7}
    assert values(copied) == EXPECTED
    assert list(folder.glob("*.tfrecord*")) and not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    "harm", [lambda raw: raw[:-3], lambda raw: raw[:20], lambda raw: b"\xff" * 99, lambda raw: b""]
)
def test_damaged_tfrecord_is_one_line_and_changes_nothing(copied, harm):
    folder = as_tfrecord(copied, harm)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="copy it again"):
        prepare.prepare("tiny_jssl_set", str(copied))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_sets_that_cannot_be_prepared(tmp_path, monkeypatch):
    for name in ("no_such_set_at_all", "kaggle:sudoku", "", "../x"):
        with pytest.raises(UserError, match="--name=.*: no data set of TFDS") as caught:
            prepare.prepare(name, str(tmp_path))
        assert "\n" not in str(caught.value)

    def unreachable(self, **_):
        raise ConnectionError("Max retries exceeded\nwith url: https://example.org")

    monkeypatch.setattr(TinyJsslSet, "download_and_prepare", unreachable)
    with pytest.raises(UserError, match="could not be prepared .*check the network") as caught:
        prepare.prepare("tiny_jssl_set", str(tmp_path))
    assert "\n" not in str(caught.value)
