"""`jssl embed`: parts that are resumed and joined, and what is refused."""

import json

import numpy as np
import pytest
from helpers.html_names import CLASSES

import jssl
from jssl import cli
from jssl.config import UserError
from jssl.evals import feature_file, feature_parts
from jssl.evals.features import Embedded

IDENTITY = {"run": "a", "step": 4}
CLASS_NAMES = ["cat", "dog"]


class Photos:
    """A source of ten examples with names of different lengths."""

    name = "photos"
    classes = CLASS_NAMES

    def __len__(self):
        return 10

    def describe(self, row):
        return f"ö{row:0{row + 1}}.png"


class FakeFeatures:
    """Features of a source without reading it; example 5 is unreadable."""

    def __init__(self, stop_at=99):
        self.starts = []
        self.stop_at = stop_at

    def part(self, state, source, start, stop):
        if start >= self.stop_at:
            raise KeyboardInterrupt
        self.starts.append(start)
        rows = np.array([row for row in range(start, stop) if row != 5])
        features = np.stack([rows, -rows, rows / 7], axis=1).astype(np.float32)
        return Embedded(features, (rows % 3 - 1).astype(np.int32), rows, stop - start - len(rows))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(feature_parts, "PART_EXAMPLES", 3)


def embed(out, features, **changes):
    """Embeds `Photos` into `out`."""
    parts = feature_parts.Parts(out, IDENTITY | changes, 10, 2)
    feature_parts.embed_parts(features, None, Photos(), parts, lambda done, total: None)
    feature_file.write(out, parts, CLASS_NAMES)
    parts.remove()
    return out


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_stopped_embedding_goes_on_to_the_same_bytes(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra embed is not installed")
    whole = embed(tmp_path / f"whole{suffix}", FakeFeatures())
    out = tmp_path / f"stopped{suffix}"
    with pytest.raises(KeyboardInterrupt):
        embed(out, FakeFeatures(stop_at=8))
    assert not out.exists() and len(list((tmp_path / f"{out.name}.parts").glob("*.npz"))) == 2
    rest = FakeFeatures()
    embed(out, rest)
    assert rest.starts == [8]  # a part has 4 examples: two batches of 2
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, out.name])


def test_the_arrays_of_a_result(tmp_path):
    found = np.load(embed(tmp_path / "a.npz", FakeFeatures()))
    rows = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert found["index"].tolist() == rows
    assert found["features"].dtype == np.float32 and found["features"][:, 0].tolist() == rows
    assert found["name"].tolist() == [Photos().describe(row) for row in rows]
    assert found["label"].tolist() == [row % 3 - 1 for row in rows]
    assert found["classes"].tolist() == CLASS_NAMES
    assert json.loads(str(found["info"]))["step"] == 4


def test_the_table_of_a_result(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra embed is not installed")
    file = parquet.ParquetFile(embed(tmp_path / "a.parquet", FakeFeatures()))
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert rows[1] == {
        "index": 1, "name": "ö01.png", "features": [1.0, -1.0, np.float32(1 / 7)], "label": 0,
        "class": "cat",
    }  # fmt: skip
    assert rows[0]["label"] is None and rows[0]["class"] is None


def test_parts_of_something_else_are_refused(tmp_path):
    out = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(out, FakeFeatures(stop_at=4))
    before = sorted((tmp_path / "a.npz.parts").iterdir())
    with pytest.raises(UserError, match="holds parts with step=4, not 6; remove that folder"):
        embed(out, FakeFeatures(), step=6)
    assert sorted((tmp_path / "a.npz.parts").iterdir()) == before


def test_a_folder_that_is_not_of_parts_is_refused(tmp_path):
    (tmp_path / "a.npz.parts").mkdir()
    (tmp_path / "a.npz.parts" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="no parts.json"):
        embed(tmp_path / "a.npz", FakeFeatures())
    assert (tmp_path / "a.npz.parts" / "mine.txt").read_text() == "x"


def test_a_damaged_part_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "a.npz", FakeFeatures(stop_at=4))
    part = tmp_path / "a.npz.parts" / "000000.npz"
    part.write_bytes(part.read_bytes().replace(b"\0\0\0@", b"\0\0\0A"))  # 2.0 becomes 8.0
    with pytest.raises(
        UserError, match=r"is damaged: Bad CRC.*; remove .*000000.npz, and the same"
    ):
        embed(tmp_path / "a.npz", FakeFeatures())


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "old.npz").write_text("mine")
    cases = (
        ("a.csv", "no .npz and no .parquet"),
        ("old.npz", "exists already"),
        ("none/a.npz", "in a folder that does not exist"),
    )
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            feature_file.check(tmp_path / name)
    monkeypatch.setattr(feature_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pyarrow; install it with: .*embed"):
        feature_file.check(tmp_path / "a.parquet")


def test_the_command_embeds_any_folder(vit_run, tmp_path, capsys):
    workdir, images = vit_run
    out = tmp_path / "a.npz"
    broken = images / "test" / CLASSES[1] / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    words = ["embed", f"--workdir={workdir}", f"--out={out}", "--config.data.split=test"]
    try:
        assert cli.main([*words, "--config.data.max_corrupt_fraction=0.5"]) == 0
    finally:
        broken.write_bytes(whole)
    result = json.loads(capsys.readouterr().out)
    assert result == {
        "out": str(out), "step": 2, "examples": 15, "dim": 32, "unreadable_examples": 1,
    }  # fmt: skip
    found = np.load(out)
    assert str(broken) not in found["name"].tolist()
    assert found["classes"].tolist() == list(CLASSES)
    expected = jssl.load(workdir).embed(found["name"].tolist())
    np.testing.assert_allclose(found["features"], expected, atol=1e-4)
    assert cli.main(words) == 2 and "exists already" in capsys.readouterr().err


def test_the_command_writes_the_files_of_the_projector(vit_run, tmp_path, capsys):
    workdir, _ = vit_run
    words = ["embed", f"--workdir={workdir}", f"--out={tmp_path}/p", "--config.data.split=test"]
    assert cli.main([*words, "--projector", "--examples=5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"out": f"{tmp_path}/p", "step": 2, "examples": 5, "dim": 32}
    lines = (tmp_path / "p" / "projector" / "metadata.tsv").read_text().splitlines()
    classes, names, _ = zip(*(line.split("\t") for line in lines[1:]), strict=True)
    assert set(classes) <= set(CLASSES)
    stored = np.fromfile(tmp_path / "p" / "projector" / "features.bytes", "<f4").reshape(5, 32)
    expected = jssl.load(workdir).embed(list(names))
    np.testing.assert_allclose(stored, expected, atol=1e-4)


def test_flags_of_the_projector_are_refused_without_it(vit_run, tmp_path, capsys):
    workdir, _ = vit_run
    words = ["embed", f"--workdir={workdir}"]
    for more, message in (
        ([f"--out={tmp_path}/a.npz", "--examples=5"], "examples='5': is of --projector"),
        (["--projector", "--examples=0"], "examples=0: must be at least 1"),
        (["--projector", f"--out={tmp_path}/none/p"], "in a folder that does not exist"),
    ):
        assert cli.main([*words, *more]) == 2
        assert message in capsys.readouterr().err


def test_data_that_is_gone_is_named(vit_run, tmp_path, capsys):
    workdir, _ = vit_run
    words = [f"--workdir={workdir}", f"--out={tmp_path}/a.npz", "--config.data.path=/none"]
    assert cli.main(["embed", *words]) == 2
    assert "the data cannot be opened" in capsys.readouterr().err
