"""`jssl embed`: the features of a data set as a file, in parts that a stop does not lose."""

import json

import numpy as np
import pytest
from helpers.command import refused

import jssl
from jssl import cli
from jssl.commands import embed
from jssl.data.sources import digits
from jssl.evals import vectors

FEW = ["--config.steps=2", "--config.eval.every=0", "--config.checkpoint.every=0"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A short run on 344 digits."""
    folder = tmp_path_factory.mktemp("embed") / "run"
    words = ["train", "--config=simclr_digits:tiny", f"--workdir={folder}", *FEW]
    assert cli.main(words) == 0
    return folder


def embedded(workdir, out, *more):
    assert cli.main(["embed", f"--workdir={workdir}", f"--out={out}", *more]) == 0
    return out


def test_the_features_are_those_of_the_encoder(workdir, tmp_path):
    out = embedded(workdir, tmp_path / "e.npz", "--part-size=100", "--config.data.split=test[:10%]")
    images, labels = digits.load("test")
    with np.load(out) as table:
        index = table["index"]
        assert list(index) == list(range(len(index))) and len(index) > 100
        rows = [int(name.rpartition(" ")[2]) for name in table["name"]]
        np.testing.assert_array_equal(table["label"], labels[rows])
        assert list(table["classes"]) == [str(i) for i in range(10)]
        want = jssl.load(workdir).embed(images[rows])
        np.testing.assert_allclose(table["features"], want, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


def test_parquet_has_the_same_rows(workdir, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    small = ["--part-size=100"]
    table = parquet.read_table(embedded(workdir, tmp_path / "e.parquet", *small))
    with np.load(embedded(workdir, tmp_path / "e.npz", *small)) as arrays:
        features = np.stack(table["feature"].to_numpy(zero_copy_only=False))
        np.testing.assert_array_equal(features, arrays["features"])
        assert table["name"].to_pylist() == list(arrays["name"])
        assert table["class"].to_pylist() == [arrays["classes"][i] for i in arrays["label"]]


def test_a_stop_loses_one_part_and_changes_no_byte(workdir, tmp_path, monkeypatch):
    whole = embedded(workdir, tmp_path / "whole.npz", "--part-size=100").read_bytes()
    written = []
    write = vectors.Parts.write

    def stop_at_the_third(parts, number, **arrays):
        if number == 2 and len(written) < 3:
            written.append("stopped")
            raise KeyboardInterrupt
        written.append(number)
        write(parts, number, **arrays)

    monkeypatch.setattr(embed.vectors.Parts, "write", stop_at_the_third)
    words = ["embed", f"--workdir={workdir}", f"--out={tmp_path / 'e.npz'}", "--part-size=100"]
    assert cli.main(words) != 0
    assert not (tmp_path / "e.npz").exists()
    assert cli.main(words) == 0
    assert written == [0, 1, "stopped", 2, 3], "parts 0 and 1 are not computed again"
    assert (tmp_path / "e.npz").read_bytes() == whole


def test_parts_of_other_data_are_refused(workdir, tmp_path, capfd):
    (tmp_path / "e.npz.parts").mkdir()
    (tmp_path / "e.npz.parts" / "about.json").write_text(json.dumps({"run": "other"}))
    words = ["embed", f"--workdir={workdir}", f"--out={tmp_path / 'e.npz'}"]
    assert "holds parts of another checkpoint" in refused(capfd, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out=x.csv"], "ends in neither .npz nor .parquet"),
        ([], "--out is missing"),
        (["--out=none/x.npz"], "is no folder"),
        (["--out=x.npz", "--part-size=0"], "must be at least 1"),
        (["--out=x.npz", "--config.steps=3"], "was fixed by training"),
    ],
)
def test_wrong_input_is_one_line(words, message, workdir, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capfd, "embed", f"--workdir={workdir}", *words)
    assert not list(tmp_path.glob("*.npz"))
