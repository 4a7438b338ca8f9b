"""What the embedding projector of TensorBoard loads: features, titles and small images."""

import types

import jax
import numpy as np
import pytest
from helpers.shades import Shades
from PIL import Image

from jssl.config import UserError
from jssl.reports import projector
from jssl.reports.examples import EmbeddedRows


class Words:
    """Texts of which text `i` is i words."""

    fields = {"tokens": jax.ShapeDtypeStruct((8,), np.int32)}
    tokenizer = types.SimpleNamespace(decode=lambda ids: " ".join(f"word{i}" for i in ids))

    def read(self, indices):
        (index,) = indices
        tokens = np.arange(8, dtype=np.int32)[None]
        return {"tokens": tokens, "segment": (tokens < index).astype(np.int32)}

    def describe(self, index):
        return f"text {index}"


def embedded(source, rows, labels=None):
    rows = np.array(rows)
    features = np.arange(len(rows) * 3, dtype=np.float32).reshape(-1, 3)
    return EmbeddedRows(source, "train", rows, features, labels)


def test_the_files_of_images(tmp_path):
    folder = tmp_path / "tensorboard"
    rows = embedded(Shades(), [0, 2, 4, 6, 9], np.array([1, 0, -1, 1, 0]))
    projector.write(folder, rows, ["cat", "dog"], step=7)
    assert (folder / "projector_config.pbtxt").read_text() == (
        "embeddings {\n"
        '  tensor_name: "features_of_step_7"\n'
        "  tensor_shape: 5\n"
        "  tensor_shape: 3\n"
        '  tensor_path: "projector/features.bytes"\n'
        '  metadata_path: "projector/metadata.tsv"\n'
        '  sprite { image_path: "projector/sprite.png" '
        "single_image_dim: 64 single_image_dim: 64 }\n"
        "}\n"
    )
    stored = np.frombuffer((folder / "projector" / "features.bytes").read_bytes(), "<f4")
    np.testing.assert_array_equal(stored.reshape(5, 3), rows.features)
    table = (folder / "projector" / "metadata.tsv").read_text().splitlines()
    assert table[0] == "class\tname\tindex" and len(table) == 6
    assert table[1] == "dog\tphotos/a b 0 .png\t0"
    assert table[3] == "\tphotos/a b 4 .png\t4", "no label"
    picture = np.asarray(Image.open(folder / "projector" / "sprite.png"))
    assert picture.shape == (3 * 64, 3 * 64, 3)
    centers = picture[32::64, 32::64, 0].reshape(-1)
    assert centers.tolist() == [0, 40, 80, 120, 180, 255, 255, 255, 255]


def test_a_grid_of_many_images_is_as_large_as_a_browser_takes(monkeypatch):
    monkeypatch.setattr(projector, "LARGEST", 50)
    picture, side = projector.sprite(embedded(Shades(), range(10)))
    assert side == 12 and picture.shape == (48, 48, 3)
    assert picture[6::12, 6::12, 0].reshape(-1).tolist()[:10] == [20 * i for i in range(10)]


def test_text_without_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(projector.thumbnails, "text", lambda tokenizer, ids: tokenizer.decode(ids))
    projector.write(tmp_path, embedded(Words(), [2, 1]), (), step=1)
    table = (tmp_path / "projector" / "metadata.tsv").read_text()
    assert table == "text\tname\tindex\nword0 word1\ttext 2\t2\nword0\ttext 1\t1\n"
    assert "sprite" not in (tmp_path / "projector_config.pbtxt").read_text()
    assert not (tmp_path / "projector" / "sprite.png").exists()


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "projector").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a folder, or a link; move it out of the way"):
        projector.write(tmp_path, embedded(Shades(), [1]), (), step=1)
    assert not list((tmp_path / "elsewhere").iterdir())
