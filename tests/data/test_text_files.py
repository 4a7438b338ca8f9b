"""Files of text: of any encoding, length and damage; slices of one document; cures that work."""

import gzip
import json
import os
import re
import tracemalloc

import numpy as np
import pytest
from helpers import open_source
from hypothesis import given, settings
from hypothesis import strategies as st

from jssl.config import UserError
from jssl.data.sources import packed
from jssl.data.text import corpora, encoding, packing, text_files, text_source
from jssl.data.text.tokenizer import ByteTokenizer

ENGLISH = "It was the best of times,\nit was the worst of times; na\u00efve caf\u00e9s.\n" * 9


def options(path, **changes):
    base = {"source": "text", "name": "", "path": str(path), "dir": "", "split": "train"}
    base |= {"max_side": 0, "channels": 3, "tokenizer": "bytes", "seq_len": 8}
    return base | changes


def corpus(path, split="train", **more):
    return corpora.open_corpus(source="text", name="", path=str(path), dir="", split=split, **more)


def read(path, split="train", **more):
    """{number of the document: its text}"""
    found = {}
    for number, part, _ in corpora.pieces(corpus(path, split, **more), corpora.Tally()):
        found[number] = found.get(number, "") + part
    return list(found.values())


# -- encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [lambda raw: raw, gzip.compress])
@pytest.mark.parametrize("ending", ["TXT", "jsonl"])
@pytest.mark.parametrize("name", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be",
                                  "utf-32", "utf-32-le", "utf-32-be"])  # fmt: skip
def test_an_encoding_is_found(tmp_path, name, ending, packing):
    content = json.dumps({"text": ENGLISH}, ensure_ascii=False) if ending == "jsonl" else ENGLISH
    path = tmp_path / f"a.{ending}{'.gz' if packing is gzip.compress else ''}"
    path.write_bytes(packing(content.encode(name)))
    assert read(path) == [ENGLISH]


@pytest.mark.parametrize("name", ["latin-1", "cp1251", "shift_jis", "utf-16-be", "gb18030"])
def test_an_encoding_is_given(tmp_path, name):
    whole = {"cp1251": "\u043c\u0438\u0440 ", "shift_jis": "\u65e5\u672c\u8a9e "}.get(
        name, "caf\u00e9 "
    ) * 99
    (tmp_path / "a.txt").write_bytes(whole.encode(name))
    assert read(tmp_path / "a.txt", encoding=name) == [whole]


@pytest.mark.parametrize(
    "name", ["utf-9", "rot13", "base64", "idna", "os", "../x", "\0", "u\u00e9"]
)
def test_what_is_no_encoding(tmp_path, name):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="data.encoding=.*: no encoding"):
        read(tmp_path / "a.txt", encoding=name)


@pytest.mark.parametrize(
    "raw", [b"a" + b"\0" * 999, bytes(range(128, 256)) * 9, os.urandom(4096), b"\0" * 70_000]
)
def test_what_is_no_text(tmp_path, raw):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(UserError, match="data.path=.*a.txt': cannot be read") as caught:
        read(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


def test_pipes_and_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    os.mkfifo(tmp_path / "p.txt")
    assert read(tmp_path) == ["a"]
    (tmp_path / "gone.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match="gone.txt': gone"):
        read(tmp_path)


# -- memory --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=9))
def test_parts_are_bounded_and_are_the_text(chunks):
    before = text_files.PART
    text_files.PART = 7
    try:
        parts = list(text_files.bounded(chunks))
    finally:
        text_files.PART = before
    assert "".join(parts) == "".join(chunks)
    assert all(0 < len(part) <= 21 for part in parts)


@pytest.mark.parametrize("filling", ["lorem ipsum ", "x", " ", "\u65e5\u672c"])
@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl"])
def test_text_of_any_kind_needs_little_memory(tmp_path, filling, ending):
    whole = "a" + filling * (6 * 2**20 // len(filling.encode()))
    raw = json.dumps({"text": whole}).encode() if ending == "jsonl" else whole.encode()
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(raw, 1) if ending == "txt.gz" else raw)
    tracemalloc.start()
    size = sum(len(part) for _, part, _ in corpora.pieces(corpus(path), corpora.Tally()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == len(whole)
    assert peak < (6 * len(raw) if ending == "jsonl" else 4 * 2**20)


def test_space_ahead_of_a_text_is_not_kept(tmp_path):
    (tmp_path / "a.txt").write_text(" " * 2**22 + "word")
    [found] = read(tmp_path)
    assert found.strip() == "word" and len(found) <= 4 * text_files.PART


def test_bombs_and_endless_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_SMALL", 2**20)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"word " * 2**20))
    with pytest.raises(UserError, match="grows more than 200 times"):
        read(tmp_path / "a.txt.gz")
    monkeypatch.setattr(text_files, "LINE", 100)
    lines = [json.dumps({"text": one}) for one in ("one", "x" * 200, "two")]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    assert read(tmp_path / "b.jsonl") == ["one", "two"]


def test_a_tokenizer_is_trained_on_a_sample_of_what_never_repeats(tmp_path, monkeypatch, caplog):
    rows = [f"{k * 7919 % 10**7:07d}" for k in range(2000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    monkeypatch.setattr(packing, "_WORDS", 7 * 500)
    assert list(packing._sample(corpus(tmp_path))) == rows[::4]
    assert "one part in 4" in caplog.text
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 2500}))
    assert [len(part) for part in packing._sample(corpus(tmp_path))] == [1000, 1000, 500]


# -- lines of JSON -------------------------------------------------------------------------------


def test_odd_lines_are_skipped_named_and_counted(tmp_path, caplog):
    good = [json.dumps({"body": f"text {k}"}) for k in range(300)]
    odd = ['{"body": null}', "[1]"]
    (tmp_path / "a.jsonl").write_text("\n".join([*good, *odd]))
    source = open_source(**options(tmp_path, text_key="body"))
    assert source.documents == 300
    assert "2 lines odd" in caplog.text and 'a.jsonl line 301: its "body" is no text' in caplog.text
    (tmp_path / "a.jsonl").write_text("\n".join([*good, *odd * 2]))
    with pytest.raises(UserError, match="line 301: .* 4 of 304 lines"):
        open_source(**options(tmp_path, text_key="body"))
    assert (
        open_source(**options(tmp_path, text_key="body", max_corrupt_fraction=0.02)).documents
        == 300
    )
    with pytest.raises(UserError, match="line 301"):
        open_source(**options(tmp_path, text_key="body", max_corrupt_fraction=0.0))


# -- slices and splits ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.text("ab \n", min_size=100, max_size=300), st.integers(1, 99))
def test_one_document_is_split_by_its_parts(tmp_path_factory, content, share):
    folder = tmp_path_factory.mktemp("one")
    whole = "begin " + content + " end"
    (folder / "a.txt").write_text(whole)
    halves = [read(folder, f"train[:{share}%]"), read(folder, f"train[{share}%:]")]
    assert "".join("".join(half) for half in halves).replace(" ", "") == whole.replace(" ", "")
    packing.pack(corpus(folder), ByteTokenizer(), str(folder / "out"))
    mapped = [text_source.open_tokens(str(folder / "out"), f"train[{part}]", "", 8, True)
              for part in (f":{share}%", f"{share}%:")]  # fmt: skip
    found = [batch["tokens"][batch["segment"] > 0] for batch in
             (one.read(np.arange(len(one))) for one in mapped)]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(found), [*ByteTokenizer().encode(whole), 2])


def test_training_never_reads_another_split(tmp_path):
    for name in ("a.txt", "b.TXT", "Test.txt", "val-00.txt", "dev/x.txt", "more/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(read(tmp_path)) == ["a.txt", "b.TXT", "more/y.txt"]
    assert read(tmp_path, "test") == ["Test.txt"]
    assert read(tmp_path, "validation") == ["dev/x.txt"]


# -- cures ---------------------------------------------------------------------------------------


def cured(given, message):
    """The options with every cure that a message proposes."""
    found = []
    for cure in re.findall(
        r"(?:use|try|mean|set|or|write) '?(?:--config\.data\.split=)?(train[\w\[\]:%]*)", message
    ):
        found.append(given | {"split": cure})
    for key, value in re.findall(
        r"(?:use|set|or set) --config\.data\.(\w+)=([\w.\[\]:%-]*)", message
    ):
        kind = type(given.get(key, ""))
        found.append(given | {key: float(value) if key == "max_corrupt_fraction" else kind(value)})
    for value in re.findall(r"did you mean '([\w-]+)'", message):
        [key] = re.findall(r"^--config\.data\.(\w+)", message)
        found.append(given | {key: value})
    return found


def test_every_cure_that_a_message_proposes_works(tmp_path):
    def folder(name, **files):
        for file, content in files.items():
            path = tmp_path / name / file.replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return tmp_path / name

    one = folder("one", a_txt=ENGLISH.encode())
    two = folder("two", a_txt=b"some text", b_txt=b"other text")
    body = folder("body", a_jsonl=b'{"id": "1", "body": "some text"}\n' * 3)
    half = folder("half", a_jsonl=b'{"text": "some text"}\n' + b"x\n" * 2)
    western = folder("western", a_txt="\u00e9\u00e8\u00e0 ".encode("latin-1") * 99)
    packing.pack(corpus(two), ByteTokenizer(), str(tmp_path / "words"))
    packing.pack(corpus(one), ByteTokenizer(), str(tmp_path / "word"))
    made = packed.arrays(np.zeros((1, 8, 8, 3), np.uint8), None, "mine")
    packed.pack(made, str(tmp_path / "images"), lambda *_: None)
    images = {"source": "packed", "seq_len": 0, "tokenizer": "", "max_side": 8}
    mapped = {"source": "packed", "tokenizer": ""}
    tried = [
        options(one, split="train[50%:50%]"), options(one, split="train[5:7]"),
        options(two, split="train[:10%]"), options(two, split="test"),
        options(two, encoding="utf8x"), options(two, tokenizer="byte"), options(two, source="txt"),
        options(body), options(half), options(western), options(one, encoding="utf-32"),
        options(tmp_path / "words", **mapped, split="train[:10%]"),
        options(tmp_path / "words", **mapped, split="test"),
        options(tmp_path / "word", **mapped, split="train[9:9]"),
        options(tmp_path / "words", **mapped, text_key="body"),
        options(tmp_path / "images", **images, split="train[:10%]"),
        options(tmp_path / "images", **images | {"max_side": 4}),
        options(tmp_path / "images", **images | {"channels": 1}),
    ]  # fmt: skip
    for given_options in tried:
        with pytest.raises(UserError) as caught:
            open_source(**given_options)
        cures = cured(given_options, str(caught.value))
        assert cures, f"no cure in: {caught.value}"
        for cure in cures:
            assert len(open_source(**cure)), str(caught.value)


def test_detection_is_of_characters_and_not_of_luck():
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert encoding.detect("\u65e5\u672c\u8a9e, and more.\n".encode(name)) == name
    assert encoding.detect(b"") == "utf-8"
