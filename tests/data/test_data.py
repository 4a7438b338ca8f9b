"""Order, decoding and sources."""

import importlib.util
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers import open_source
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import MT19937, RandomState, SeedSequence
from PIL import Image

from jssl import data
from jssl.config import UserError
from jssl.data import decode, sampling
from jssl.data.canvas import pad_to_canvas
from jssl.data.decode import Unreadable
from jssl.data.sources import packed, tfds_source

REPOSITORY = ROOT
REAL = pathlib.Path(os.environ.get("JSSL_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
needs_real = pytest.mark.skipif(
    not (REAL / "cifar10").is_dir(), reason=f"no prepared data in {REAL}; set JSSL_DATA_DIR"
)


def pixels(height, width, channels=3, seed=0):
    """Smooth random pixels, which JPEG keeps well."""
    small = RandomState(seed).randint(0, 256, (4, 5, channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((width, height)) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def encode(image, format="JPEG", **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format, **options)
    return out.getvalue()


def options(**changes):
    base = {"source": "folder", "name": "", "path": "", "dir": "", "split": "train"}
    return base | {"max_side": 16, "channels": 3} | changes


def make_folder(root, files):
    """Writes {relative path: bytes, or a seed for a 12x10 PNG}."""
    for name, content in files.items():
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(
                encode(pixels(12, 10, seed=content), "PNG") if type(content) is int else content
            )
    return str(root)


# -- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 10), (7, 30), (1, 3), (1000, 256)])
def test_order_is_the_endless_row_of_epochs(n, size):
    def epoch(e):
        return RandomState(MT19937(SeedSequence([5, e]))).permutation(n)

    endless = np.concatenate([epoch(e) for e in range(6 * size // n + 2)])
    for step in (5, 0, 3, 1):  # any start, any order
        got = sampling.indices(5, step, n, size)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, endless[step * size : (step + 1) * size])
    assert sorted(endless[:n]) == list(range(n))


def test_order_is_frozen_and_depends_on_the_seed():
    # Written down once. A change breaks the resuming of every run there is.
    assert sampling.indices(0, 0, 10, 12).tolist() == FROZEN
    assert sampling.indices(0, 0, 100, 50).tolist() != sampling.indices(1, 0, 100, 50).tolist()
    assert sampling.indices(0, 2**40, 50_000, 4096).shape == (4096,)  # reached at once


FROZEN = [6, 1, 0, 5, 3, 8, 7, 9, 2, 4, 7, 3]


def test_sequential_pads_and_masks():
    seen = [sampling.sequential(step, 10, 4) for step in range(3)]
    assert np.concatenate([i for i, _ in seen]).tolist() == [*range(10), 9, 9]
    assert np.concatenate([real for _, real in seen]).tolist() == [True] * 10 + [False] * 2


def test_slices_share_nothing_and_are_mixed():
    first, second = sampling.split_rows("train[:90%]", 101), sampling.split_rows("train[90%:]", 101)
    assert len(first) == 90
    assert sorted([*first, *second]) == list(range(101))
    assert second.min() < 50  # not the tail of a folder sorted by class
    assert sampling.split_rows("train", 101) is None
    assert len(sampling.split_rows("train[:7]", 101)) == 7
    assert sampling.split_rows("train[:999]", 101) is None
    assert sampling.split_name("test[5:10%]") == "test"


@pytest.mark.parametrize(
    "split", ["", "train[", "train[a:]", "train[50%:10%]", "train[-1:]", "a+b[]"]
)
def test_wrong_slices(split):
    with pytest.raises(UserError, match="data.split="):
        sampling.split_rows(split, 10)


# -- decode --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_agree_with_pillow(format):
    image = pixels(40, 60)
    bytes_ = encode(image, format)
    want = np.asarray(Image.open(io.BytesIO(bytes_)).convert("RGB"))
    got = decode.decode(bytes_, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - want).max() <= (4 if format == "JPEG" else 0)
    gray = decode.decode(bytes_, 1)
    assert gray.shape == (40, 60, 1)
    luma = want @ np.array([0.299, 0.587, 0.114])
    if format == "JPEG":  # stores luma; the RGB that is made of it is clipped to 0..255
        stored = Image.open(io.BytesIO(bytes_))
        stored.draft("L", stored.size)
        luma = np.asarray(stored, float)
    assert np.abs(gray[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_modes(mode):
    image = Image.fromarray(pixels(20, 30)).convert(mode)
    bytes_ = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    want = np.asarray(Image.open(io.BytesIO(bytes_)).convert("RGB"))
    got = decode.decode(bytes_, 3)
    assert np.abs(got.astype(int) - want).max() <= (4 if mode == "CMYK" else 0)


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert decode.decode(encode(pixels(20, 40), exif=exif), 3).shape == (20, 40, 3)


def test_large_jpeg_is_decoded_reduced():
    image = pixels(400, 640)
    bytes_ = encode(image, quality=95)
    reduced = decode.decode(bytes_, 3, 40)
    assert reduced.shape == (100, 160, 3)
    assert decode.decode(bytes_, 3, 101).shape == (400, 640, 3)
    assert decode.decode(encode(pixels(640, 400)), 3, 40).shape == (160, 100, 3)
    small, size = pad_to_canvas(reduced, (40, 64))
    want = Image.fromarray(image).resize((64, 40), Image.Resampling.BOX)
    assert size.tolist() == [40, 64]
    assert np.abs(small.astype(int) - np.asarray(want)).mean() < 4


def test_place_shrinks_and_never_enlarges():
    for channels in (1, 3):
        image = pixels(9, 6, channels)
        placed, size = pad_to_canvas(image, (16, 20))
        assert (placed.shape, placed.dtype) == ((16, 20, channels), np.uint8)
        assert (size.tolist(), size.dtype) == ([9, 6], np.int32)
        np.testing.assert_array_equal(placed[:9, :6], image)
        assert placed[9:].max() == placed[:, 6:].max() == 0
        assert pad_to_canvas(pixels(50, 60, channels), (16, 20))[1].tolist() == [16, 19]
    assert pad_to_canvas(np.full((2, 300, 3), 7, np.uint8), (16, 20))[1].tolist() == [2, 20]


def test_place_is_antialiased_bilinear():
    def weights(n_in, n_out):  # a triangle as wide as the shrinking, about each output's center
        scale = n_in / n_out
        center = (np.arange(n_out)[:, None] + 0.5) * scale
        w = np.maximum(0, 1 - np.abs(np.arange(n_in) + 0.5 - center) / scale)
        return w / w.sum(1, keepdims=True)

    noise = RandomState(0).randint(0, 256, (24, 18, 3), dtype=np.uint8)
    want = np.einsum("oh,pw,hwc->opc", weights(24, 16), weights(18, 12), noise.astype(float))
    placed, size = pad_to_canvas(noise, (12, 18))
    assert size.tolist() == [16, 12]  # in portrait, and so turned
    assert np.abs(placed[:, :16].swapaxes(0, 1) - want).max() <= 1.5


def test_bombs_are_unreadable_and_cheap():
    began = time.perf_counter()
    for format in ("PNG", "JPEG"):
        bytes_ = bytearray(encode(pixels(8, 8), format))
        at = bytes_.index(b"IHDR") + 4 if format == "PNG" else bytes_.index(b"\xff\xc0") + 5
        side = b"\x00\x00\xff\x00" if format == "PNG" else b"\xff\x00"
        bytes_[at : at + 2 * len(side)] = side * 2
        with pytest.raises(Unreadable):
            decode.decode(bytes(bytes_), 3)
    assert time.perf_counter() - began < 1


SEEDS = [encode(pixels(24, 20), f) for f in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
SEEDS.append(encode(pixels(24, 20), "JPEG", progressive=True))


@settings(max_examples=300, deadline=2000, derandomize=True)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=6),
    st.one_of(st.none(), st.integers(0, 1500)),
    st.sampled_from([1, 3]),
)
def test_mutated_images_decode_or_are_unreadable(bytes_, edits, end, channels):
    mutated = bytearray(bytes_)
    for at, new in edits:
        mutated[at % len(mutated) : at % len(mutated) + len(new)] = new
    decodes_or_unreadable(bytes(mutated[:end]), channels)


@settings(max_examples=200, deadline=2000, derandomize=True)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"])
)
def test_random_bytes_decode_or_are_unreadable(bytes_, magic):
    decodes_or_unreadable(magic + bytes_, 3)


def decodes_or_unreadable(bytes_, channels):
    try:
        image = decode.decode(bytes_, channels, 8)
    except Unreadable as error:
        assert error.reason
        assert "\n" not in error.reason
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == channels


# -- folder --------------------------------------------------------------------------------------


def test_folder_with_labels(tmp_path):
    root = make_folder(
        tmp_path,
        {
            "dog/b.PNG": 1,
            "cat/deep/a b.png": 2,
            "cat/ü.jpeg": 3,
            "cat/.hidden.png": 4,
            "x.txt": b"",
        },
    )
    source = open_source(**options(path=root))
    assert (len(source), source.classes, source.fields["image"].shape) == (
        3,
        ["cat", "dog"],
        (16, 24, 3),
    )
    assert source.describe(0) == os.path.join(root, "cat", "deep", "a b.png")
    batch = source.read(np.array([2, 0, 0]))
    assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
        "image": ("uint8", (3, 16, 24, 3)),
        "size": ("int32", (3, 2)),
        "index": ("int32", (3,)),
        "label": ("int32", (3,)),
        "damaged": ("int32", (3,)),
    }
    assert batch["label"].tolist() == [1, 0, 0]
    assert batch["index"].tolist() == [2, 0, 0]
    assert batch["size"].tolist() == [[12, 10]] * 3
    np.testing.assert_array_equal(batch["image"][0, :12, :10], pixels(12, 10, seed=1))
    assert batch["damaged"].tolist() == [-1] * 3


@pytest.mark.parametrize(
    "files", [{"a.png": 0, "b/c.png": 1, "d/e.png": 2}, {"a/b.png": 0, "a/c.png": 1}]
)
def test_folder_without_labels(tmp_path, files):
    source = open_source(**options(path=make_folder(tmp_path, files)))
    assert source.classes is None
    assert "label" not in source.read(np.arange(2))


def test_folder_splits(tmp_path):
    files = {
        f"{split}/{c}/{k}.png": k for split in ("train", "val") for c in "ab" for k in range(5)
    }
    root = make_folder(tmp_path, files)
    assert len(open_source(**options(path=root))) == 10
    assert open_source(**options(path=root, split="val")).name.endswith("val")
    first = open_source(**options(path=root, split="train[:60%]"))
    second = open_source(**options(path=root, split="train[60%:]"))
    assert (len(first), len(second)) == (6, 4)
    named = {s.describe(i) for s in (first, second) for i in range(len(s))}
    assert len(named) == 10
    for i, label in enumerate(second.read(np.arange(4))["label"]):
        assert second.classes[label] == pathlib.Path(second.describe(i)).parent.name
    with pytest.raises(UserError, match=r"data.split='test': .*train, val"):
        open_source(**options(path=root, split="test"))


def test_folder_survives_odd_names_and_link_loops(tmp_path):
    make_folder(tmp_path, {os.fsdecode(b"a/\xff\xfe.png"): 0, "b/new\nline.png": 1})
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    source = open_source(**options(path=str(tmp_path)))
    assert len(source) == 3
    source = pickle.loads(pickle.dumps(source))
    batch = source.read(np.arange(3))
    assert sorted(batch["damaged"].tolist()) == [-1, -1, 2]  # the dangling link, sorted last


def broken_folder(root):
    good = encode(pixels(30, 30), "JPEG")
    broken = {"1.jpg": good[: len(good) // 2], "2.png": b"not an image\n", "4.png": b""}
    return make_folder(
        root, {"0.png": 0, **broken, "3.png": 3, "5.webp": encode(pixels(8, 8), "WEBP")}
    )


def test_unreadable_examples_are_replaced_and_reported(tmp_path):
    source = open_source(**options(path=broken_folder(tmp_path)))
    batch = source.read(np.arange(6))
    assert batch["index"].tolist() == [0, 3, 3, 3, 5, 5]
    assert batch["damaged"].tolist() == [-1, 1, 2, -1, 4, -1]
    np.testing.assert_array_equal(batch["image"][1], batch["image"][3])
    (tmp_path / "5.webp").unlink()  # gone while the run goes on; 0 stands in, after the end
    batch = source.read(np.array([5, 4]))
    assert batch["index"].tolist() == [0, 0]
    assert batch["damaged"].tolist() == [5, 4]
    for name in ("0.png", "3.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="data.path=.* none of its 6 examples can be read"):
        source.read(np.array([0]))


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="data.path=.*no such folder"):
        open_source(**options(path=str(tmp_path / "missing")))
    with pytest.raises(UserError, match="data.path=''"):
        open_source(**options())
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"data.path=.*no image.*\.jpg"):
        open_source(**options(path=str(tmp_path)))


# -- arrays and packed ---------------------------------------------------------------------------


def test_arrays():
    images, labels = pixels(40, 40)[None].repeat(9, 0), np.arange(9) % 3
    images[:, 0, 0, 0] = np.arange(9)
    source = packed.arrays(images, labels, "mine", "train[:50%]")
    assert (len(source), source.classes, source.fields["image"].shape) == (
        4,
        ["0", "1", "2"],
        (40, 40, 3),
    )
    batch = pickle.loads(pickle.dumps(source)).read(np.array([3, 1]))
    rows = batch["image"][:, 0, 0, 0]
    assert batch["index"].tolist() == [3, 1]
    assert rows.tolist() == sampling.split_rows("train[:50%]", 9)[[3, 1]].tolist()
    assert batch["label"].tolist() == (rows % 3).tolist()
    assert batch["size"].tolist() == [[40, 40]] * 2
    assert "label" not in packed.arrays(images, None, "mine").read(np.arange(2))
    for wrong in (images[0], images.astype(np.float32), images[:0]):
        with pytest.raises(UserError, match="uint8"):
            packed.arrays(wrong, None, "mine")
    with pytest.raises(UserError, match="labels"):
        packed.arrays(images, labels[:5], "mine")


@pytest.mark.skipif(
    not importlib.util.find_spec("jssl.data.sources.digits"), reason="no digits yet"
)
def test_digits():
    source = open_source(**options(source="digits", max_side=32))
    assert (source.fields["image"].shape, len(source.classes)) == ((32, 32, 3), 10)
    with pytest.raises(UserError, match="data.split='validation'"):
        open_source(**options(source="digits", max_side=32, split="validation"))


def test_pack_round_trip(tmp_path):
    files = {f"{c}/{k}.png": k for c in "ab" for k in range(4)} | {"b/broken.png": b""}
    source = open_source(**options(path=make_folder(tmp_path / "in", files)))
    out, calls = tmp_path / "deep" / "out", []
    report = packed.pack(source, str(out), lambda *call: calls.append(call))
    assert (report["examples"], report["damaged"], calls[-1]) == (8, 1, (9, 9))
    assert report["bytes"] == sum(f.stat().st_size for f in out.iterdir())
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # nothing temporary is left
    again = open_source(**options(source="packed", path=str(out)))
    assert again.classes == ["a", "b"]
    want, got = source.read(np.arange(8)), again.read(np.arange(8))
    for key in ("image", "size", "index", "label"):
        np.testing.assert_array_equal(got[key], want[key])
        assert got[key].dtype == want[key].dtype
    assert type(got["image"]) is np.ndarray
    copy = pickle.dumps(again)
    assert len(copy) < 1000  # the name of the folder, not its content
    np.testing.assert_array_equal(pickle.loads(copy).read(np.arange(8))["image"], got["image"])
    assert len(open_source(**options(source="packed", path=str(out), split="train[:50%]"))) == 4
    assert len(open_source(**options(source="packed", path=str(out.parent), split="out"))) == 8
    with pytest.raises(UserError, match="out=.*exists"):
        packed.pack(source, str(out), print)
    with pytest.raises(UserError, match="data.split='test'"):
        open_source(**options(source="packed", path=str(out), split="test"))
    with pytest.raises(UserError, match="data.max_side=8: .*data.max_side=16"):
        open_source(**options(source="packed", path=str(out), max_side=8))
    with pytest.raises(UserError, match="data.channels=1: .*data.channels=3"):
        open_source(**options(source="packed", path=str(out), channels=1))


def test_a_failed_pack_leaves_nothing(tmp_path):
    source = packed.arrays(np.zeros((4, 8, 8, 3), np.uint8), None, "mine")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed.pack(source, str(tmp_path / "out"), stop)
    assert not list(tmp_path.iterdir())


def damage_meta(out, **changes):
    meta = json.loads((out / "meta.json").read_text()) | changes
    (out / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "meta.json").write_text("{"),
        lambda out: (out / "meta.json").write_text("[]"),
        lambda out: damage_meta(out, version=2),
        lambda out: damage_meta(out, examples=5),
        lambda out: damage_meta(out, canvas=[8, 8, 1]),
        lambda out: (out / "label.npy").unlink(),
        lambda out: (out / "size.npy").write_bytes(b""),
        lambda out: np.save(out / "size.npy", np.zeros((4, 3), np.int32)),
        lambda out: np.save(out / "label.npy", np.array([{}] * 4), allow_pickle=True),
        lambda out: os.truncate(out / "image.npy", 300),
    ],
)
def test_damaged_packs(tmp_path, harm):
    out = tmp_path / "out"
    images = np.zeros((4, 8, 8, 3), np.uint8)
    packed.pack(packed.arrays(images, np.arange(4), "mine"), str(out), lambda *_: None)
    harm(out)
    with pytest.raises(UserError, match="data.path=.*pack it again"):
        open_source(**options(source="packed", path=str(out)))


# -- tfds ----------------------------------------------------------------------------------------


def prepared(**changes):
    return options(source="tfds", name="cifar10", dir=str(REAL), max_side=64) | changes


@needs_real
def test_cifar10_agrees_with_pillow():
    import tensorflow_datasets as tfds

    source = open_source(**prepared(split="test"))
    assert (len(source), source.fields["image"].shape, len(source.classes)) == (
        10_000,
        (32, 32, 3),
        10,
    )
    assert source.classes[0] == "airplane"
    picks = np.array([9_999, 0, 5, 5])
    batch = pickle.loads(pickle.dumps(source)).read(picks)
    builder = tfds.builder_from_directory(REAL / "cifar10" / "3.0.2")
    raw = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    for row, pick in enumerate(picks):
        want = np.asarray(Image.open(io.BytesIO(raw[pick]["image"])))
        assert np.abs(batch["image"][row].astype(int) - want).max() <= 4
        assert batch["label"][row] == raw[pick]["label"]
    assert batch["index"].tolist() == picks.tolist()
    assert batch["size"].tolist() == [[32, 32]] * 4


@needs_real
def test_imagenette_keeps_sizes_and_slices():
    source = open_source(**prepared(name="imagenette/160px-v2", split="validation[:10%]"))
    assert (len(source), source.fields["image"].shape) == (392, (64, 96, 3))
    batch = source.read(np.arange(3))
    assert batch["size"].tolist() == [[64, 64]] * 3
    whole = open_source(**prepared(name="imagenette/160px-v2:1.0.0", max_side=200))
    assert (len(whole), whole.fields["image"].shape) == (9469, (200, 300, 3))
    batch = whole.read(np.arange(3))
    assert batch["size"].tolist() == [[160, 160]] * 3
    assert batch["image"][:, 160:].max() == batch["image"][:, :, 160:].max() == 0


@needs_real
def test_tensorflow_is_never_imported():
    rest = {"on_device": False, "workers": 0, "max_corrupt_fraction": 0.01}
    code = (
        "import sys, numpy as np; from jssl import data\n"
        f"source = data.load(**{prepared() | rest!r}).source\n"
        "source.read(np.arange(3))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=120)


@needs_real
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar100"}, r"data.name='cifar100': .*try cifar10"),
        ({"name": "imagenette"}, r"data.name='imagenette': .*imagenette/160px-v2"),
        ({"name": ""}, r"data.name='': "),
        ({"name": "cifar10:1.0.0"}, r"data.name='cifar10:1.0.0': .*cifar10"),
        ({"name": "sst2"}, r"data.name='sst2': .*no image, only label, text"),
        ({"split": "validation"}, r"data.split='validation': .*train, test"),
        ({"split": "train[:9x%]"}, r"data.split="),
        ({"dir": "/nowhere"}, r"data.dir='/nowhere'"),
        ({"dir": ""}, r"data.dir=''"),
    ],
)
def test_wrong_tfds(changes, message):
    began = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        open_source(**prepared(**changes))
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - began < 10  # a try to download would hang


def test_the_newest_version_is_taken(tmp_path):
    for version in ("9.1.0", "10.0.0", "2.0.0"):
        (tmp_path / "mine" / version).mkdir(parents=True)
        (tmp_path / "mine" / version / "dataset_info.json").write_text("{}")
    assert tfds_source.find_prepared("mine", str(tmp_path)).name == "10.0.0"
    assert tfds_source.find_prepared("mine:2.0.0", str(tmp_path)).name == "2.0.0"


@needs_real
def test_missing_and_damaged_records(tmp_path):
    real = REAL / "imagenette" / "160px-v2" / "1.0.0"
    copy = tmp_path / "imagenette" / "160px-v2" / "1.0.0"
    copy.mkdir(parents=True)
    for file in real.glob("*.*"):
        if "array_record" not in file.name:
            (copy / file.name).write_bytes(file.read_bytes())
    changes = {"name": "imagenette/160px-v2", "dir": str(tmp_path), "split": "validation"}
    with pytest.raises(UserError, match="data.split='validation': .*is missing"):
        open_source(**prepared(**changes))
    [shard] = real.glob("*validation.array_record*")
    content = bytearray(shard.read_bytes())
    at = 40 * 1024
    content[at : at + 3000] = bytes(3000)
    (copy / shard.name).write_bytes(content)
    batch = open_source(**prepared(**changes)).read(np.arange(40))
    assert 1 <= (batch["damaged"] >= 0).sum() < 20


# -- the section of the config -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "fodler"}, "data.source='fodler': .*folder"),
        ({"max_side": 0}, "data.max_side=0"),
        ({"channels": 4}, "data.channels=4"),
        ({"workers": -1}, "data.workers=-1"),
        ({"max_corrupt_fraction": 2.0}, "data.max_corrupt_fraction=2.0"),
    ],
)
def test_wrong_keys(tmp_path, changes, message):
    path = make_folder(tmp_path, {"a.png": 0})
    rest = {"on_device": False, "workers": 0, "max_corrupt_fraction": 0.0}
    assert data.load(**options(path=path), **rest).source.name == path
    with pytest.raises(UserError, match=message):
        data.load(**(options(path=path) | rest | changes))
