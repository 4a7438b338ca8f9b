"""Tokenizers, packed folders and sets of TFDS that somebody else made: nothing they hold runs code,
exhausts the memory, is read as something else, or is a traceback."""

import copy
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from helpers import open_source

from jssl.config import UserError
from jssl.data.files import Damaged
from jssl.data.sources import packed, tfds_source
from jssl.data.sources.tfds_trust import classes
from jssl.data.text import corpora, limits, packing, text_source
from jssl.data.text.tokenizer import ByteTokenizer, HFTokenizer, load

BPE = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {
        "type": "BPE", "dropout": None, "merges": [["a", "b"]],
        "vocab": {"<pad>": 0, "<start>": 1, "<end>": 2, "<mask>": 3, "a": 4, "b": 5, "ab": 6},
    },
}  # fmt: skip


def file(**changes):
    """A tokenizer.json with "model.dropout" and the like set."""
    tree = copy.deepcopy(BPE)
    for key, value in changes.items():
        *above, last = key.split("__")
        node = tree
        for name in above:
            node = node[name]
        node[last] = value
    return json.dumps(tree)


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


NINE = [replace({"String": "a"}, "a" * 9)]

# -- tokenizers ----------------------------------------------------------------------------------


def test_ids_are_a_function_of_the_text():
    made = HFTokenizer(file(model__dropout=0.5))
    assert made.dropout == 0.5
    assert {tuple(made.encode("abababab")) for _ in range(40)} == {(6, 6, 6, 6)}
    assert made.fingerprint == HFTokenizer(file()).fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__vocab__a": 4_000_000_000}, "id of 'a' is 4000000000"),
        ({"model__vocab__a": 2**22}, "limit"),
        ({"added_tokens": [{"content": "x", "id": 2**31, "special": True}]}, "id of 'x'"),
        ({"normalizer": {"type": "Sequence", "normalizers": NINE * 4}}, "6561 times"),
        ({"normalizer": replace({"Regex": ""}, "x" * 100)}, "101 times"),
        ({"decoder": {"type": "Sequence", "decoders": NINE * 2}}, "81 times"),
        ({"model": {"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 10**9}}, "1000"),
        ({"model": 3}, "damaged"),
        ({"model": []}, "damaged"),
    ],
)  # fmt: skip
def test_files_that_could_exhaust_the_memory(changes, said):
    with pytest.raises(Damaged, match=said):
        HFTokenizer(file(**changes))


def test_usual_replacements_are_fine():
    usual = [replace({"Regex": r"\s+"}, " "), replace({"String": "``"}, '"'), {"type": "NFKD"}]
    assert limits.refuse(json.loads(file(normalizer={"type": "Sequence", "normalizers": usual})))
    assert HFTokenizer(file(normalizer=replace({"String": " "}, "▁"))).growth == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$|(a|aa)+c"},
                           "behavior": "Isolated", "invert": False}},
        {"normalizer": replace({"Regex": "(a+)+$|(a|aa)+c"}, "b")},
        {"model": {"type": "WordLevel", "vocab": {"the": 0}, "unk_token": "[UNK]"}},
    ],
)  # fmt: skip
def test_texts_that_a_tokenizer_cannot_take(changes, tmp_path):
    """Panics and errors of the library are one line; the cure that it gives works."""
    (tmp_path / "t.json").write_text(file(**changes))
    (tmp_path / "a.txt").write_text("a" * 60 + "b")
    made = load(str(tmp_path / "t.json"))
    for attempt in (made.encode, lambda one: made.encode_batch([one])):
        with pytest.raises(
            UserError, match="t.json': cannot take this text .*; use bytes"
        ) as caught:
            attempt("a" * 60 + "b")
        assert "\n" not in str(caught.value)
    options = {"source": "text", "path": str(tmp_path / "a.txt"), "split": "train", "seq_len": 8}
    assert len(open_source(**options, max_side=0, tokenizer="bytes"))


def test_large_tokenizers_and_pipes(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    path.write_text(file())
    monkeypatch.setattr("jssl.data.text.tokenizer.JSON_LIMIT", 100)
    with pytest.raises(UserError, match="t.json': .*100 are the limit"):
        load(str(path))
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="no file"):
        load(str(tmp_path / "pipe.json"))


# -- packed --------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    made = packed.arrays(np.zeros((4, 8, 6, 3), np.uint8), np.arange(4), "mine")
    packed.pack(made, str(tmp_path / "images"), lambda *_: None)
    return tmp_path / "images"


@pytest.fixture
def words(tmp_path):
    def parts(tally):
        return ((k, f"document {k}", k % 2) for k in range(5))

    corpus = corpora.Corpus("mine", "x", parts, ["even", "odd"], "")
    packing.pack(corpus, ByteTokenizer(), str(tmp_path / "words"))
    return tmp_path / "words"


def change(folder, key, at, value):
    array = np.load(folder / f"{key}.npy")
    array[at] = value
    np.save(folder / f"{key}.npy", array)


def as_npz(folder, key):
    np.savez(folder / "x.npz", a=np.zeros(3))
    (folder / "x.npz").rename(folder / f"{key}.npy")


def header(folder, key, old, new):
    """Another header of the same length."""
    raw = (folder / f"{key}.npy").read_bytes()
    assert old in raw
    (folder / f"{key}.npy").write_bytes(raw.replace(old, new + b" " * (len(old) - len(new)), 1))


def pipe(folder, key):
    (folder / f"{key}.npy").unlink()
    os.mkfifo(folder / f"{key}.npy")


def meta(folder, **changes):
    found = json.loads((folder / "meta.json").read_text()) | changes
    (folder / "meta.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: change(f, "size", 2, 0),
        lambda f: change(f, "size", (1, 0), -5),
        lambda f: change(f, "size", (3, 1), 7),
        lambda f: change(f, "size", (0, 0), 2**30),
        lambda f: change(f, "label", 1, 10**9),
        lambda f: change(f, "label", 1, -7),
        lambda f: change(f, "label", 1, 4),
        lambda f: as_npz(f, "image"),
        lambda f: as_npz(f, "label"),
        lambda f: pipe(f, "image"),
        lambda f: header(f, "image", b"(4, 8, 6, 3)", b"(-1, 8, 6, 3"[:11] + b")"),
        lambda f: np.save(f / "size.npy", np.zeros((4, 2), ">i4")),
        lambda f: np.save(f / "size.npy", np.array([None] * 8).reshape(4, 2)),
        lambda f: (f / "meta.json").write_text("[" * 100_000),
        lambda f: (f / "label.npy").unlink(),
        lambda f: meta(f, classes="abcd"),
        lambda f: meta(f, canvas=[8]),
        lambda f: meta(f, examples=0),
    ],
)
def test_content_of_packed_images(images, harm):
    harm(images)
    with pytest.raises(UserError, match="data.path=.* no intact .*; pack it again") as caught:
        packed.open_packed(str(images), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: change(f, "offsets", 2, 1),
        lambda f: change(f, "offsets", 1, -4),
        lambda f: change(f, "offsets", 3, 10**15),
        lambda f: change(f, "offsets", 2, np.load(f / "offsets.npy")[1]),
        lambda f: change(f, "label", 0, 2),
        lambda f: as_npz(f, "tokens"),
        lambda f: pipe(f, "offsets"),
        lambda f: meta(f, tokens=0),
        lambda f: meta(f, documents=0),
        lambda f: meta(f, tokenizer="../../etc/passwd"),
        lambda f: meta(f, tokenizer=["bytes"]),
        lambda f: (f / "meta.json").write_text('{"a":' * 100_000),
    ],
)
def test_content_of_packed_text(words, harm):
    harm(words)
    with pytest.raises(UserError, match="data.path=.* no intact .*; pack it again") as caught:
        text_source.open_tokens(str(words), "train", "", 8, False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [True, False])
def test_ids_of_packed_text_are_checked_when_they_are_read(words, pack):
    change(words, "tokens", 3, 60000)
    source = text_source.open_tokens(str(words), "train", "", 8, pack)
    with pytest.raises(UserError, match="has the id 60000, and its tokenizer knows 260"):
        source.read(np.arange(len(source)))


def test_fingerprints_tell_the_content_and_not_the_place(words, tmp_path):
    def opened(folder):
        return text_source.open_tokens(str(folder), "train", "", 8, True).fingerprint

    before = opened(words)
    shutil.copytree(words, tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere") == before
    change(words, "tokens", 3, 77)
    assert opened(words) != before
    half = text_source.open_tokens(str(tmp_path / "elsewhere"), "train[:50%]", "", 8, True)
    assert half.fingerprint != before


# -- TFDS ----------------------------------------------------------------------------------------

FEATURE = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}


def with_features(tmp_path, tree):
    folder = tmp_path / "set" / "1.0.0"
    folder.mkdir(parents=True)
    name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    whole = {"pythonClassName": name, "featuresDict": {"features": {"text": FEATURE, "x": tree}}}
    (folder / "features.json").write_text(json.dumps(whole))
    about = {"name": "set", "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    "tree",
    [
        {"pythonClassName": "evil.Feature", "text": {}},
        {"python_class_name": "evil.Feature", "text": {}},
        {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
         "sequence": {"feature": {"pythonClassName": "evil.Feature", "text": {}}}},
        {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
         "jsonFeature": {"json": json.dumps({"type": "evil.Feature", "content": "{}"})}},
        {"pythonClassName": "tensorflow_datasets.scripts.evil.Feature", "text": {}},
    ],
)  # fmt: skip
def test_a_data_set_chooses_no_code(tmp_path, monkeypatch, tree):
    with_features(tmp_path, tree)
    code = f"open({str(tmp_path / 'marker')!r}, 'w')"
    (tmp_path / "evil.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))  # as PYTHONPATH=. in that folder
    with pytest.raises(UserError, match="data.name='set': refused .*would be run"):
        tfds_source.open_text("set", str(tmp_path), "train")
    assert not (tmp_path / "marker").exists() and "evil" not in sys.modules


def test_classes_are_found_however_deep():
    tree = [{"a": json.dumps([{"type": "x.Y"}])}, {"pythonClassName": "z.W", "type": {"type": "v"}}]
    assert sorted(classes(tree)) == ["v", "x.Y", "z.W"]


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", "[" * 100_000, '{"a": 1}', '{"splits": 3}']
)
def test_damaged_sets_of_tfds(tmp_path, name, content):
    folder = with_features(tmp_path, FEATURE)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="data\\.") as caught:
        tfds_source.open_text("set", str(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_the_variable_of_tfds(monkeypatch, real_data):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="data.dir='': .*TFDS_DATA_DIR"):
        tfds_source.open_tfds("cifar10", "", "test", 32, 3)
    monkeypatch.setenv("TFDS_DATA_DIR", str(pathlib.Path(real_data)))
    assert len(tfds_source.open_tfds("cifar10", "", "test", 32, 3)) == 10_000
