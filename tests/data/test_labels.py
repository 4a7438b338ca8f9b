"""Classes of two splits are compared by name; what cannot be read is left out of evaluations."""

import pickle

import numpy as np
import pytest
from conftest import make_mesh
from helpers import image_info
from helpers.folders import PNG, make, opened

from jssl.config import Config, UserError, load
from jssl.data import labels
from jssl.data.host_batches import read_all
from jssl.data.sources import packed
from jssl.data.text import text_source
from jssl.data.text.tokenizer import ByteTokenizer
from jssl.evals import knn
from jssl.evals.features import Features
from jssl.evals.language import Subset
from jssl.evals.online import evaluation_source


def folders(tmp_path, split, classes):
    return opened(
        make(tmp_path, *(f"{split}/{name}/{k}.png" for name in classes for k in "12")), split
    )


def arrays(tmp_path, split, classes):
    """A packed set: its labels are numbers, and its names lie in meta.json."""
    label = np.repeat(np.arange(len(classes), dtype=np.int32), 2)
    images = np.zeros((len(label), 4, 4, 3), np.uint8)
    made = packed.arrays(images, label, split)
    made.classes = list(classes)
    packed.pack(made, str(tmp_path / split), lambda done, total: None)
    return packed.open_packed(str(tmp_path), split)


def sentences(tmp_path, split, classes):
    label = np.repeat(np.arange(len(classes), dtype=np.int32), 2)
    flat = np.tile(np.array([9, 2], np.uint16), len(label))
    offsets = np.arange(0, len(flat) + 1, 2)
    return text_source.Tokens(
        split, flat, offsets, ByteTokenizer(), 4, False, labels=label, classes=list(classes)
    )


KINDS = pytest.mark.parametrize("kind", [folders, arrays, sentences])


def names(source, classes):
    """The class of each example, by its name; None: unlabeled."""
    found = source.read(np.arange(len(source)))["label"].tolist()
    return [None if label < 0 else classes[label] for label in found]


@KINDS
@pytest.mark.parametrize(
    ("asked", "right"),
    [
        (["b", "c"], ["b", "b", "c", "c"]),  # the first class is missing
        (["a", "c"], ["a", "a", "c", "c"]),
        (["a", "b", "c"], ["a", "a", "b", "b", "c", "c"]),
        (["a", "b", "bb", "c"], ["a", "a", "b", "b", None, None, "c", "c"]),
        (["0", "c", "z"], [None, None, "c", "c", None, None]),
    ],
)
def test_labels_are_mapped_by_name(kind, asked, right, tmp_path, caplog):
    train = kind(tmp_path, "train", ["a", "b", "c"])
    test = kind(tmp_path, "test", asked)
    mapped = labels.relabel(test, train.classes, "config.eval.split=test")
    assert mapped.classes == train.classes and len(mapped) == len(test)
    assert names(mapped, train.classes) == right
    strange = [name for name in asked if name not in train.classes]
    if strange:
        assert f"{len(strange)} of {len(asked)} classes that training lacks" in caplog.text
        assert all(name in caplog.text for name in strange)
    again = pickle.loads(pickle.dumps(mapped))
    assert names(again, train.classes) == right and again.fields == test.fields
    assert mapped.describe(0) == test.describe(0)


@KINDS
def test_no_class_in_common(kind, tmp_path):
    with pytest.raises(UserError, match="test of .* has the classes x, y, and training has a, b"):
        labels.relabel(kind(tmp_path, "test", ["x", "y"]), ["a", "b"], "config.eval.split=test")


@KINDS
def test_nothing_is_wrapped_where_nothing_changes(kind, tmp_path):
    source = kind(tmp_path, "test", ["a", "b"])
    assert labels.relabel(source, ["a", "b"], "") is source


@KINDS
def test_forms_of_unicode_are_one_name(kind, tmp_path):
    train = kind(tmp_path, "train", ["a", "caf\u00e9"])
    test = kind(tmp_path, "test", ["cafe\u0301", "d"])
    mapped = labels.relabel(test, train.classes, "test")
    assert names(mapped, train.classes) == ["caf\u00e9"] * 2 + [None] * 2


def test_a_test_set_of_one_class_has_labels(tmp_path):
    """One folder tells nothing of its own; beside a training set it is a class."""
    train, test = folders(tmp_path, "train", "ab"), folders(tmp_path, "test", "b")
    assert test.classes is None
    mapped = pickle.loads(pickle.dumps(labels.relabel(test, train.classes, "test")))
    assert names(mapped, train.classes) == ["b", "b"]
    other = folders(tmp_path, "val", "x")
    assert labels.relabel(other, train.classes, "val") is other


def the_config(path, **changes):
    words = {
        "data.source": "folder", "data.path": str(path), "data.split": "train",
        "data.on_device": "False", "eval.split": "test",
    }  # fmt: skip
    return Config(load("configs/simclr_digits.py:tiny", words | changes))


def test_every_evaluation_takes_the_numbers_of_training(tmp_path):
    train, _ = folders(tmp_path, "train", "abc"), folders(tmp_path, "test", "bc")
    source = evaluation_source(the_config(tmp_path), image_info(), train.classes)
    assert names(source, train.classes) == ["b", "b", "c", "c"]
    features = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    asked = source.read(np.arange(4))["label"]
    options = dict(classes=3, k=1, temperature=0.1, chunk=4)
    known = train.read(np.arange(6))["label"]
    assert knn.top1(features, known, features[2:], asked, **options) == 1.0


def test_a_split_that_is_missing_is_named_by_the_key_of_evaluation(tmp_path):
    make(tmp_path, "owls/1.png", "eagles/2.png")
    with pytest.raises(UserError) as refused:
        evaluation_source(the_config(tmp_path), image_info(), ["eagles", "owls"])
    said = str(refused.value)
    assert "config.eval.split='test'" in said and "config.eval.split=train" in said
    assert "owls" not in said and "eagles" not in said, "classes are no splits"
    assert evaluation_source(
        the_config(tmp_path, **{"eval.split": "train"}), image_info(), ["eagles", "owls"]
    )


# -- what cannot be read -------------------------------------------------------------------------


def embed(state, batch):
    """The brightness of an image, or the first token of a text."""
    if "image" in batch:
        return batch["image"].astype(np.float32).mean((1, 2, 3))[:, None]
    return batch["tokens"][:, :1].astype(np.float32)


@pytest.mark.parametrize("labeled", [True, False])
def test_what_cannot_be_read_is_left_out_and_named(labeled, tmp_path, caplog):
    """A stand-in would be a perfect duplicate of its neighbor."""
    where = "{}/{}.png" if labeled else "{}{}.png"
    files = [where.format("ab"[k % 2], k) for k in range(10)]
    for k, name in enumerate(files):
        make(tmp_path, name, content=b"broken" if k in (3, 7) else PNG)
    source = opened(tmp_path)
    broken = [i for i in range(10) if source.describe(i)[-5] in "37"]
    features = Features(embed, make_mesh(2), 4)
    found = features.whole(None, source)
    assert found.rows.tolist() == [i for i in range(10) if i not in broken]
    assert found.features.shape == (8, 1) and found.unreadable == 2
    if labeled:
        right = [int(source.describe(i).split("/")[-2] == "b") for i in found.rows]
        assert found.labels.tolist() == right
    else:
        assert found.labels is None
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.msg]
    assert "2 of 10 examples" in said and source.describe(broken[0]) in said
    features(None, source)
    assert sum("left out" in record.msg for record in caplog.records) == 1, "named once"


class WithDamage:
    """A source of which some examples cannot be read."""

    def __init__(self, source, bad):
        self.source, self.bad, self.name = source, bad, source.name
        self.classes, self.fields = source.classes, source.fields
        self.modality, self.fingerprint = source.modality, source.fingerprint

    def __len__(self):
        return len(self.source)

    def describe(self, index):
        return self.source.describe(index)

    def read(self, indices):
        batch = self.source.read(indices)
        return batch | {"damaged": np.where(np.isin(indices, self.bad), indices, -1)}


@pytest.mark.parametrize("kind", [arrays, sentences])
def test_every_kind_of_source_leaves_out_what_is_damaged(kind, tmp_path):
    source = WithDamage(kind(tmp_path, "train", "abcd"), [0, 6])
    found = Features(embed, make_mesh(4), 4).whole(None, source)
    assert found.rows.tolist() == [1, 2, 3, 4, 5, 7]
    assert found.labels.tolist() == [0, 1, 1, 2, 2, 3]


def test_rows_of_text_stay_with_their_costs(tmp_path):
    some = Subset(WithDamage(sentences(tmp_path, "train", "abcd"), [2]), 4)
    read = Features(embed, make_mesh(1), 3).whole(None, some)
    assert some.rows.tolist() == [0, 2, 4, 7]
    assert some.rows[read.rows].tolist() == [0, 4, 7] and some.describe(1).endswith("document 2")


def test_what_stands_in_has_no_label_in_fine_tuning(tmp_path):
    """Fine-tuning feeds on stand-ins as pretraining does; a row without a label has no loss."""
    make(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    make(tmp_path, "b/2.png", content=b"broken")
    batch = read_all(opened(tmp_path), lambda done, total: None)
    assert batch["label"].tolist() == [0, -1, 1] and batch["damaged"].tolist() == [-1, 1, -1]
