"""Text: tokenizers, documents, rows of tokens, packed text."""

import gzip
import itertools
import json
import os
import pickle
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest
import tokenizers
from conftest import ROOT, in_make_laws, make_mesh
from helpers import open_source
from hypothesis import given, settings
from hypothesis import strategies as st

from jssl import cli
from jssl.config import Config, UserError, load
from jssl.data import DataConfig, sampling
from jssl.data.files import Damaged
from jssl.data.loader import Feed
from jssl.data.source import dataset_info, example_bytes, info_from_json, info_to_json
from jssl.data.text import corpora, encoding, packing, text_files, text_source
from jssl.data.text import tokenizer as tokenizer_module
from jssl.data.text.tokenizer import ByteTokenizer, HFTokenizer, train
from jssl.training import setup

WORDS = ["the quick brown fox jumps", "over the lazy dog.\n\nThe end", "hélas, 日本 the fox"] * 20
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=12)


def options(path="", **changes):
    base = {"source": "text", "name": "", "path": str(path), "dir": "", "split": "train"}
    return base | {"max_side": 0, "channels": 3, "tokenizer": "bytes", "seq_len": 8} | changes


def lines(texts, **more):
    return "".join(json.dumps({"text": t} | more) + "\n" for t in texts)


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return root


def everything(source):
    return source.read(np.arange(len(source)))


def documents(source):
    """The texts of a source whose documents are joined, told by `end` alone."""
    batch = everything(source)
    ids = batch["tokens"][batch["segment"] > 0].tolist()
    assert ids[-1] == source.vocab["end"]
    cut = [i for i, token in enumerate(ids) if token == source.vocab["end"]]
    starts = [0, *(i + 1 for i in cut)]
    return [source.tokenizer.decode(ids[a:b]) for a, b in zip(starts, cut, strict=False)]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """The path of a small BPE."""
    folder = tmp_path_factory.mktemp("bpe")
    train(WORDS, 300).save(folder, "bpe.json")
    return str(folder / "bpe.json")


# -- tokenizers ----------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_are_bytes(given_text):
    made = ByteTokenizer()
    ids = made.encode(given_text)
    assert ids == [4 + byte for byte in given_text.encode()]
    assert made.decode([made.vocab["start"], *ids, made.vocab["end"], 0]) == given_text
    [batched] = made.encode_batch([given_text])
    assert batched.dtype == np.uint16 and batched.tolist() == ids


def test_words_of_bytes():
    made = ByteTokenizer()
    assert made.vocab == {"size": 260, "pad": 0, "start": 1, "end": 2, "mask": 3}
    ids = [1, *made.encode("ab c\nd"), 2, *made.encode("e")]
    assert made.word_starts(ids).tolist() == [*map(bool, [1, 1, 0, 0, 1, 0, 1, 1, 1])]
    assert made.word_starts(np.array([ids[2:4]] * 2)).tolist() == [[True, False]] * 2
    assert made.word_starts([]).shape == (0,)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_keeps_every_byte_and_no_text_is_special(bpe, given_text):
    made = tokenizer_module.load(bpe)
    for tried in (given_text, f"<mask>{given_text}<end> <pad>\n<start>"):
        ids = made.encode(tried)
        assert made.decode(ids) == tried
        assert not ids or min(ids) > 3
        assert made.encode_batch([tried, "x"])[0].tolist() == ids


@in_make_laws
def test_bpe_is_the_same_in_every_process(tmp_path, bpe):
    made = tokenizer_module.load(bpe)
    assert made.vocab == {"size": 300, "pad": 0, "start": 1, "end": 2, "mask": 3}
    assert not made.added
    code = f"from test_text_data import *; train(WORDS, 300).save({str(tmp_path)!r}, 'again.json')"
    path = {
        "PYTHONPATH": f"{ROOT}/tests/data:{ROOT}/tests:{ROOT}",
        "RAYON_NUM_THREADS": "1",
        "PYTHONHASHSEED": "7",
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | path)
    again = tmp_path / "again.json"
    assert again.read_bytes() == open(bpe, "rb").read()
    turned = dict(reversed(json.loads(again.read_text()).items()))
    again.write_text(json.dumps(turned, indent=7))
    assert tokenizer_module.load(str(again)).fingerprint == made.fingerprint
    assert train(WORDS, 299).fingerprint != made.fingerprint != ByteTokenizer().fingerprint
    copy = pickle.loads(pickle.dumps(made))
    assert copy.fingerprint == made.fingerprint and copy.encode("the fox") == made.encode("the fox")
    with pytest.raises(UserError, match="--vocab=259"):
        train(WORDS, 259)


def test_words_of_bpe(bpe):
    made = tokenizer_module.load(bpe)
    pieces = ["the", " qu", "ick", " dog", "\n", "\n", "The", ".", "日本"]
    ids = list(itertools.chain.from_iterable(made.encode(piece) for piece in pieces))
    found = made.word_starts(ids)
    at = np.cumsum([0, *(len(made.encode(piece)) for piece in pieces)])
    assert found[at[:-1]].tolist() == [True, True, False, True, True, True, True, False, False]
    assert not np.delete(found, at[:-1]).any()
    assert made.word_starts([1, *made.encode("x"), 2, *made.encode("y")]).all()


def wordpiece():
    from tokenizers import models, pre_tokenizers, processors

    names = ["[UNK]", "fox", "[MASK]", "[CLS]", "##es", "[SEP]", "the", "[PAD]", "[", "]", "mask"]
    made = tokenizers.Tokenizer(
        models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 5), ("[CLS]", 3))
    made.add_special_tokens(["[MASK]", "[SEP]", "[CLS]", "[PAD]"])
    made.enable_truncation(3)
    made.enable_padding(length=9)
    return made


def test_a_file_of_bert():
    made = HFTokenizer(wordpiece().to_str())
    assert made.vocab == {"size": 11, "pad": 7, "start": 3, "end": 5, "mask": 2}
    assert made.encode("the foxes the fox") == [6, 1, 4, 6, 1]  # neither cut, padded nor framed
    assert made.encode_batch(["foxes"])[0].tolist() == [1, 4]
    assert made.word_starts([6, 1, 4, 6]).tolist() == [True, True, False, True]
    assert 2 not in made.encode("the [MASK] fox")
    assert made.decode([3, 6, 1, 5, 7]) == "the fox"


def test_a_file_of_gpt2_lacks_specials(tmp_path, bpe):
    described = json.loads(open(bpe).read())
    described["added_tokens"], old = [], described["model"]["vocab"]
    vocab = {name: i - 4 for name, i in old.items() if i > 3} | {"<|endoftext|>": 296}
    described["model"]["vocab"] = vocab
    made = HFTokenizer(json.dumps(described))
    assert made.vocab == {"size": 300, "pad": 297, "start": 298, "end": 296, "mask": 299}
    assert made.added == ["<pad>", "<start>", "<mask>"]
    shifted = [i - 4 for i in tokenizer_module.load(bpe).encode("the fox")]
    assert made.encode("the fox") == shifted
    assert min(made.encode("<mask><|endoftext|>")) >= 0
    assert not {296, 299} & set(made.encode("<mask><|endoftext|>"))
    assert pickle.loads(pickle.dumps(made)).vocab == made.vocab
    described["model"]["vocab"] = {name: i + 1 for name, i in vocab.items()}  # a gap at 0
    with pytest.raises(Damaged, match="no room for <pad>, <start>, <mask>"):
        HFTokenizer(json.dumps(described))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "data.tokenizer=''.*bytes"),
        ("byte", "data.tokenizer='byte': .*did you mean 'bytes'"),
        ("{}/tokeniser.json", "no file; did you mean '.*tokenizer.json'"),
        ("{}/bad.json", "data.tokenizer=.*bad.json': it is no file of .*bytes"),
        ("{}/other.json", "data.tokenizer=.*other.json': it is no file of"),
    ],
)
def test_wrong_tokenizers(tmp_path, name, message):
    write(tmp_path, {"tokenizer.json": "x", "bad.json": b"\xff\xfe", "other.json": '{"a": 1}'})
    with pytest.raises(UserError, match=message) as caught:
        open_source(**options(write(tmp_path, {"a.txt": "a"}), tokenizer=name.format(tmp_path)))
    assert "\n" not in str(caught.value)


# -- rows ----------------------------------------------------------------------------------------


def in_memory(texts, length, pack, **more):
    def parts(tally):
        return ((k, t, -1) for k, t in enumerate(texts))

    corpus = corpora.Corpus("mine", "x", parts, None, "")
    return packing.load_in_memory(corpus, more.get("tokenizer", ByteTokenizer()), length, pack)


@settings(deadline=None, max_examples=200)
@given(TEXTS, st.integers(3, 9))
def test_rows_hold_every_token_once(texts, length):
    kept = [t for t in texts if t.strip()]
    if not kept:
        with pytest.raises(UserError, match="holds no text"):
            in_memory(texts, length, True)
        return
    source = in_memory(texts, length, True)
    batch = everything(source)
    want, numbers = [], []
    for number, one in enumerate(kept):
        want += [4 + byte for byte in one.encode()] + [2]
        numbers += [number] * (len(one.encode()) + 1)
    got = batch["tokens"].reshape(-1)
    assert got[: len(want)].tolist() == want
    assert len(got) - len(want) < length  # only the last row has padding
    assert not got[len(want) :].any() and not batch["segment"].reshape(-1)[len(want) :].any()
    for row in range(len(source)):
        mine = numbers[row * length : (row + 1) * length]
        segments = [n - mine[0] + 1 for n in mine]
        assert batch["segment"][row][: len(mine)].tolist() == segments
    picks = np.array([len(source) - 1, 0, 0])  # any rows, in any order
    for key, value in source.read(picks).items():
        np.testing.assert_array_equal(value, batch[key][picks])


@settings(deadline=None)
@given(TEXTS, st.integers(3, 9))
def test_a_document_a_row(texts, length):
    kept = [t.encode() for t in texts if t.strip()]
    if not kept:
        return
    batch = everything(in_memory(texts, length, False))
    assert len(batch["tokens"]) == len(kept)
    for one, row, segment in zip(kept, batch["tokens"], batch["segment"], strict=True):
        want = [1, *(4 + byte for byte in one[: length - 2]), 2]
        assert row.tolist() == want + [0] * (length - len(want))
        assert segment.tolist() == [1] * len(want) + [0] * (length - len(want))


def test_shapes_types_and_what_a_source_has(tmp_path):
    write(tmp_path, {"a.jsonl": lines(["abc", "de", "f" * 20])})
    assert "word" not in open_source(**options(tmp_path)).read(np.array([0]))
    source = open_source(**options(tmp_path, word_ids=True))
    assert source.vocab == ByteTokenizer().vocab and source.classes is None
    assert example_bytes(source) == 8 * 12 + 4 and source.describe(1).endswith("row 1")
    batch = pickle.loads(pickle.dumps(source)).read(np.array([3, 0]))
    assert batch.keys() == {"tokens", "segment", "word", "index", "damaged"}
    assert {v.dtype.name for v in batch.values()} == {"int32"}
    assert {type(v) for v in batch.values()} == {np.ndarray}
    assert batch["index"].tolist() == [3, 0] and batch["damaged"].tolist() == [-1, -1]
    assert batch["segment"].tolist() == [[1] * 4 + [0] * 4, [1] * 4 + [2] * 3 + [3]]
    assert batch["word"][1].tolist() == [0, 0, 0, 1, 2, 2, 3, 4], "an end is a word of its own"


@settings(deadline=None)
@given(st.lists(st.text("ab ", min_size=1, max_size=9), min_size=4, max_size=12), st.booleans())
def test_slices_are_of_documents(tmp_path_factory, texts, pack):
    texts = [f"{k}{t}" for k, t in enumerate(texts)]
    path = write(tmp_path_factory.mktemp("s"), {"a.jsonl": lines(texts)})
    wanted = options(path, seq_len=5, pack_documents=pack)
    data_pack = packing.pack(corpus_of(**wanted), ByteTokenizer(), path / "packed")
    assert data_pack["examples"] == len(texts)
    for split in ("train[:50%]", "train[50%:]"):
        rows = sampling.split_rows(split, len(texts))
        want = everything(in_memory([texts[row] for row in rows], 5, pack))
        for where in (wanted, wanted | {"source": "packed", "path": f"{path}/packed"}):
            got = open_source(**where | {"split": split})
            for key, value in everything(got).items():
                np.testing.assert_array_equal(value, want[key])


def corpus_of(source, name, path, dir, split, **_):
    return corpora.open_corpus(source=source, name=name, path=path, dir=dir, split=split)


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_a_long_file_is_read_in_parts(tmp_path, monkeypatch, bpe, name):
    book = "".join(f"The fox jumps {k} times, hélas!\n" + "\n" * (k % 3) for k in range(200))
    write(tmp_path, {"a.txt": book, "b.txt": "short"})
    wanted = options(tmp_path, tokenizer=bpe if name == "bpe" else name, seq_len=64)
    whole = open_source(**wanted)
    monkeypatch.setattr(encoding, "PART", 50)
    monkeypatch.setattr(text_files, "PART", 50)
    monkeypatch.setattr(packing, "_BATCH", 3000)
    parts = open_source(**wanted)
    assert documents(parts) == documents(whole) == [book, "short"]
    if name == "bytes":
        np.testing.assert_array_equal(everything(parts)["tokens"], everything(whole)["tokens"])


# -- files ---------------------------------------------------------------------------------------


def read_texts(path, split="train"):
    return documents(open_source(**options(path, split=split)))


def test_files_folders_patterns_and_splits(tmp_path):
    write(
        tmp_path,
        {
            "one/b.txt": "b", "one/a/z.jsonl.gz": lines(["z0", "z1"]), "one/a.txt.gz": "a",
            "one/.hidden.txt": "no", "one/readme.md": "no", "two/train/x.txt": "x",
            "two/test/y.txt": "y", "three/train.jsonl": lines(["t"]), "three/other.txt": "o",
            "three/test-00.txt": "q", "three/test-01.jsonl": lines(["r"]), "three/tests.txt": "no",
            "mark.txt": "\ufeffm", "odd[1].txt": "odd",
        },
    )  # fmt: skip
    assert read_texts(tmp_path / "one") == ["a", "z0", "z1", "b"]  # sorted by path
    assert read_texts(tmp_path / "one" / "b.txt") == ["b"]
    assert read_texts(tmp_path / "one" / "*.txt*") == ["a", "b"]
    assert read_texts(tmp_path / "two") == ["x"]
    assert read_texts(tmp_path / "two", "test") == ["y"]
    assert read_texts(tmp_path / "three") == ["t"]
    assert read_texts(f"{tmp_path}/three/", "test") == ["q", "r"]
    assert read_texts(tmp_path / "mark.txt") == ["m"]
    assert read_texts(tmp_path / "odd[1].txt") == ["odd"]
    for path, split in (("one", "test"), ("two", "validation"), ("one/b.txt", "test")):
        with pytest.raises(UserError, match=f"data.split='{split}': .*{split}.jsonl"):
            read_texts(tmp_path / path, split)


def test_odd_text_is_mended_or_skipped_and_counted(tmp_path, caplog):
    raw = b'{"text": "a\xff\xfe\xef\xbf\xbd"}\n\n  \n{"text": "c\\ud800d"}\n'
    raw += b'{"text": ""}\r\n{"text": " \\n"}\n'
    write(tmp_path, {"a.jsonl": raw, "b.txt": "ok\ufffd".encode(), "c.txt": b"", "d.txt": "\n\n"})
    caplog.set_level("INFO", "jssl")
    assert read_texts(tmp_path) == ["a\ufffd\ufffd\ufffd", "c\ufffdd", "ok\ufffd"]
    [line] = [r.getMessage() for r in caplog.records if "UTF-8" in r.getMessage()]
    assert "3 documents are empty" in line and "3 sequences" in line
    caplog.clear()
    assert read_texts(tmp_path / "b.txt") == ["ok\ufffd"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n\n" + '{"txet": "a"}\n', r"data.path=.*a.jsonl': line 3: .*\"text\""),
        (lines(["a"]) + "not json\n" * 2, "a.jsonl': line 2: "),
        ('{"text": 3}\n', "a.jsonl': line 1: "),
        ('"text"\n', "a.jsonl': line 1: "),
        ("[" * 100_000 + "\n", "a.jsonl': line 1: "),
        ("\n", "data.path=.* holds no text"),
    ],
)
def test_wrong_lines(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        open_source(**options(write(tmp_path, {"a.jsonl": content})))
    assert "\n" not in str(caught.value)


def test_wrong_paths_and_keys(tmp_path):
    write(tmp_path, {"good/a.txt": "abc", "empty/x.md": "x", "cut.txt.gz": "abc" * 1000})
    (tmp_path / "cut.txt.gz").write_bytes((tmp_path / "cut.txt.gz").read_bytes()[:-9])
    (tmp_path / "no.txt.gz").write_bytes(b"text")
    wrong = {
        "data.path='.*missing'.*\\.txt": options(tmp_path / "missing"),
        "data.path=''": options(),
        "data.path='.*empty'.*\\.jsonl\\.gz": options(tmp_path / "empty"),
        "data.path=.*x.md ends in none": options(tmp_path / "empty" / "x.md"),
        "data.path=.*cut.txt.gz': cannot be read": options(tmp_path / "cut.txt.gz"),
        "data.path=.*no.txt.gz': cannot be read": options(tmp_path / "no.txt.gz"),
        "data.split='train.:10%.': .*none of the 3": options(
            tmp_path / "good", split="train[:10%]"
        ),
        "data.seq_len=2: ": options(tmp_path / "good", seq_len=2),
        "data.seq_len=0: ": options(tmp_path / "good", seq_len=0),
        "data.seq_len=-1: ": options(tmp_path / "good", seq_len=-1),
        "data.seq_len=8: .*digits": options(source="digits"),
        "data.tokenizer='bytes': .*text": options(source="digits", seq_len=0, max_side=32),
        "data.source='txt': .*'text'": options(source="txt"),
    }
    for message, given_options in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            open_source(**given_options)
        assert "\n" not in str(caught.value)


# -- packed --------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path, bpe):
    """(options of the documents, folder they were packed in)."""
    write(tmp_path, {"in/a.jsonl": lines(WORDS), "in/b.txt": "x" * 100})
    wanted = options(tmp_path / "in", tokenizer=bpe, seq_len=16)
    out = tmp_path / "deep" / "out"
    report = packing.pack(corpus_of(**wanted), tokenizer_module.load(bpe), str(out))
    assert report["examples"] == 61 and report["damaged"] == report["invalid_utf8"] == 0
    assert report["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing temporary is left
    return wanted, out


@pytest.mark.parametrize("pack", [True, False])
def test_packed_rows_are_those_of_the_files(packed, pack):
    wanted, out = packed
    held = open_source(**wanted, pack_documents=pack)
    for name in ("", wanted["tokenizer"]):
        again = wanted | {
            "source": "packed",
            "path": str(out),
            "tokenizer": name,
            "pack_documents": pack,
        }
        mapped = open_source(**again)
        copy = pickle.loads(pickle.dumps(mapped))  # sends the folder's name, not its content
        assert mapped._flat.filename == copy._flat.filename == str(out / "tokens.npy")
        for source in (mapped, copy):
            for key, value in everything(held).items():
                got = everything(source)[key]
                np.testing.assert_array_equal(got, value)
                assert type(got) is np.ndarray and got.dtype == np.int32
    assert len(open_source(**again | {"seq_len": 32})) <= len(mapped)  # any length


def test_a_packed_folder_of_another_tokenizer(packed, tmp_path):
    wanted, out = packed
    again = wanted | {"source": "packed", "path": str(out)}
    with pytest.raises(UserError, match="data.tokenizer='bytes': .*packed with another"):
        open_source(**again | {"tokenizer": "bytes"})
    with pytest.raises(UserError, match="data.seq_len=0: .*holds text"):
        open_source(**again | {"tokenizer": "", "seq_len": 0, "max_side": 32})
    with pytest.raises(UserError, match="data.split='test': .*without splits"):
        open_source(**again | {"split": "test"})
    with pytest.raises(UserError, match="out=.*exists"):
        packing.pack(corpus_of(**wanted), ByteTokenizer(), str(out))
    with pytest.raises(UserError, match="data.source='packed': .*text"):
        corpus_of(**again)
    from jssl.data.sources import packed as images

    made = images.arrays(np.zeros((4, 8, 8, 3), np.uint8), None, "mine")
    images.pack(made, str(tmp_path / "images"), lambda *_: None)
    with pytest.raises(UserError, match="data.seq_len=16: .*holds images"):
        open_source(**again | {"path": str(tmp_path / "images")})


def damage_meta(out, **changes):
    meta = json.loads((out / "meta.json").read_text()) | changes
    (out / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "meta.json").write_text("{"),
        lambda out: (out / "meta.json").write_text("[]"),
        lambda out: damage_meta(out, version=2),
        lambda out: damage_meta(out, documents=5),
        lambda out: damage_meta(out, tokens=5),
        lambda out: damage_meta(out, tokenizer="bytes"),
        lambda out: damage_meta(out, classes=["a"]),
        lambda out: (out / "tokenizer.json").unlink(),
        lambda out: (out / "tokenizer.json").write_text(train(WORDS, 299)._definition),
        lambda out: (out / "offsets.npy").write_bytes(b""),
        lambda out: np.save(out / "offsets.npy", np.zeros(62, np.int64)),
        lambda out: os.truncate(out / "tokens.npy", 300),
    ],
)
def test_damaged_packs(packed, harm):
    wanted, out = packed
    harm(out)
    with pytest.raises(UserError, match="data.path=.*pack it again"):
        open_source(**wanted | {"source": "packed", "path": str(out), "tokenizer": ""})


def test_a_failed_pack_leaves_nothing_and_a_long_one_needs_little_memory(tmp_path):
    write(tmp_path, {"in/a.jsonl": lines(["abc"]) + "x\nx\n", "big.txt": "word and word\n" * 2**20})
    with pytest.raises(UserError, match="line 2"):
        packing.pack(corpus_of(**options(tmp_path / "in")), ByteTokenizer(), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.txt", "in"]
    tracemalloc.start()
    report = packing.pack(
        corpus_of(**options(tmp_path / "big.txt")), ByteTokenizer(), str(tmp_path / "out")
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report["tokens"] == 14 * 2**20 + 1
    assert peak < 14 * 2**20, "less than the text, and half of its tokens"


# -- prepared by TFDS ----------------------------------------------------------------------------


def prepared(real_data, name, **changes):
    return options(source="tfds", name=name, dir=str(real_data), **changes)


def test_labeled_sentences(real_data, tmp_path):
    import tensorflow_datasets as tfds

    wanted = prepared(
        real_data, "sst2", seq_len=64, pack_documents=False, split="validation[10%:20%]"
    )
    source = open_source(**wanted)
    builder = tfds.builder_from_directory(real_data / "sst2" / "1.0.0")
    raw = builder.as_data_source("validation[10%:20%]")
    assert len(source) == len(raw) and len(source.classes) == 2
    picks = np.array([5, 80, 5])
    batch = source.read(picks)
    for row, pick in enumerate(picks.tolist()):
        ids = batch["tokens"][row][batch["segment"][row] > 0].tolist()
        assert ids[0] == 1 and ids[-1] == 2
        assert source.tokenizer.decode(ids) == raw[pick]["text"].decode()[:62]
        assert batch["label"][row] == raw[pick]["label"]
    packing.pack(corpus_of(**wanted), ByteTokenizer(), str(tmp_path / "out"))
    again = wanted | {"source": "packed", "path": str(tmp_path / "out"), "split": "train"}
    mapped = open_source(**again)
    assert mapped.classes == source.classes
    for key, value in everything(source).items():
        np.testing.assert_array_equal(everything(mapped)[key], value)
    half = open_source(**again | {"split": "train[:50%]"})
    rows = sampling.split_rows("train[:50%]", len(mapped))
    np.testing.assert_array_equal(everything(half)["label"], everything(mapped)["label"][rows])
    assert open_source(**wanted | {"pack_documents": True}).classes is None


def test_books(real_data):
    source = open_source(**prepared(real_data, "classic_books", split="test", seq_len=512))
    corpus = corpus_of(**prepared(real_data, "classic_books", split="test"))
    assert documents(source) == [record["text"].decode() for record in corpus_records(corpus)]
    with pytest.raises(UserError, match="data.name='cifar10': .*no text"):
        open_source(**prepared(real_data, "cifar10"))
    with pytest.raises(UserError, match="data.name='sst2': .*no image.*data.seq_len"):
        open_source(**prepared(real_data, "sst2", seq_len=0, tokenizer="", max_side=32))


def corpus_records(corpus):
    return corpus.parts.__closure__[-1].cell_contents


def test_unreadable_records_are_skipped_and_counted(monkeypatch, caplog):
    class Broken(list):
        def __getitems__(self, wanted):
            return [self[i] for i in wanted]

        def __getitem__(self, i):
            if i == 2:
                raise ValueError("damaged")
            return {"t": b"doc %d" % i, "label": i % 2}

    monkeypatch.setattr(
        "jssl.data.sources.tfds_source.open_text", lambda *_: (Broken(range(5)), "t", ["a", "b"])
    )
    source = open_source(**options(source="tfds", seq_len=9, pack_documents=False))
    batch = everything(source)
    assert [source.tokenizer.decode(row) for row in batch["tokens"]] == [
        f"doc {i}" for i in (0, 1, 3, 4)
    ]
    assert batch["label"].tolist() == [0, 1, 1, 0]
    assert "1 unreadable" in caplog.text


# -- in a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_every_way_gives_the_order_of_the_law(packed, resident, workers):
    wanted, out = packed
    held = open_source(**wanted)
    mapped = open_source(**wanted | {"source": "packed", "path": str(out)})
    for source in (held, mapped)[workers > 0 :]:
        feed = Feed(DataConfig(source, resident, workers, 0.0), 3, 16, make_mesh(8), 2)
        batch = jax.jit(feed.batch)(feed.held, feed.next())
        feed.close()
        want = source.read(sampling.indices(3, 2, len(source), 16))
        assert batch.keys() == want.keys() - {"damaged"}
        for key, value in batch.items():
            assert value.dtype == np.int32
            np.testing.assert_array_equal(np.asarray(value), want[key])


def test_the_vocabulary_is_found(tmp_path):
    source = open_source(**options(write(tmp_path, {"a.txt": "a" * 100})))
    found = dataset_info(source)
    known = source.vocab | {"fingerprint": source.tokenizer.fingerprint}
    assert found.vocab._asdict() == known and found.num_examples == len(source) == 13
    assert info_from_json(json.loads(json.dumps(info_to_json(found)))) == found
    view = Config(load("configs/gpt_small_books.py"))
    other = found._replace(vocab=found.vocab._replace(size=100))
    setup.check_tokenizer(view, found, found)
    with pytest.raises(UserError, match="its size is 260, and was 100; name that one"):
        setup.check_tokenizer(view, other, found)
    digits = open_source(**options(source="digits", max_side=32, tokenizer="", seq_len=0))
    assert dataset_info(digits).vocab is None and dataset_info(digits).modality == "image"


# -- commands ------------------------------------------------------------------------------------


def command(capfd, *words):
    code = cli.main(["data", *map(str, words)])
    out, err = capfd.readouterr()
    return (json.loads(out) if code == 0 else err.splitlines()[-1]), code


def test_train_a_tokenizer_pack_and_read(capfd, tmp_path):
    write(tmp_path, {"in/a.jsonl.gz": lines(WORDS)})
    words = ["--config=configs/simclr_digits.py", "--config.data.source=text"]
    words += [f"--config.data.path={tmp_path}/in", "--config.data.split=train"]
    made = tmp_path / "new" / "bpe.json"
    report, code = command(capfd, "tokenizer", *words, f"--out={made}", "--vocab=270")
    assert code == 0 and report["vocab"] == 270 and made.is_file()
    assert tokenizer_module.load(str(made)).fingerprint == report["fingerprint"]
    words.append(f"--config.data.tokenizer={made}")
    report, code = command(capfd, "pack", *words, f"--out={tmp_path}/out")
    assert code == 0 and report["examples"] == len(WORDS)
    made.unlink()  # its copy lies beside the tokens
    mapped = options(f"{tmp_path}/out", source="packed", tokenizer="")
    assert documents(open_source(**mapped)) == WORDS
    for wrong, message in (
        (("tokenizer", *words, f"--out={tmp_path}/in"), "exists"),
        (("tokenizer", *words, f"--out={made}", "--vocab=many"), "--vocab='many'"),
        (("tokenizer", *words, f"--out={made}", "--vocab=100"), "--vocab=100"),
        (("pack", *words, f"--out={tmp_path}/b"), "data.tokenizer="),
        (("tokenise", *words, f"--out={tmp_path}/b"), "'tokenizer'"),
        (("tokenizer", *words), "--out is missing"),
    ):
        line, code = command(capfd, *wrong)
        assert code == 2 and message in line, line


def test_tokens_fit_their_type():
    ids = {f"w{k}": k for k in range(2**16 - 4)}
    for extra, dtype in ((0, np.uint16), (1, np.uint32)):
        vocab = ids | {f"x{k}": 2**16 - 4 + k for k in range(extra)}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        found = HFTokenizer(made.to_str())
        assert found.vocab["size"] == 2**16 + extra and found.dtype == dtype
        last = 2**16 - 5
        source = in_memory([f"w{last}"], 3, True, tokenizer=found)
        assert everything(source)["tokens"][0, :2].tolist() == [last, found.vocab["end"]]
        assert found.word_starts([1, 2]).all()
        assert isinstance(source, text_source.Tokens)
