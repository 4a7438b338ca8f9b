"""From bytes to pixels: the canvas, depth, orientation, and what an image may cost."""

import errno
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from helpers import open_source
from PIL import Image, ImageOps

from jssl import data
from jssl.config import UserError
from jssl.data import canvas, decode, depth, limits
from jssl.data.decode import Unreadable
from jssl.data.source import example_bytes
from jssl.data.sources import packed
from jssl.data.sources.folder import open_folder
from jssl.data.sources.tfds_source import TfdsImages


def encode(image, format="PNG", **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format, **options)
    return out.getvalue()


def png(values, color, extra=b""):
    """A PNG of 16 bits, which Pillow cannot write with several channels."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").tobytes()
    step = len(rows) // height
    body = b"".join(b"\0" + rows[i : i + step] for i in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def tiff(values, bits, sample=1, white=None):
    """An uncompressed TIFF, of any number of channels."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    order = [(256, 4, width), (257, 4, height), (259, 3, 1), (262, 3, 2 if channels > 1 else 1)]
    order += [(277, 3, channels), (278, 4, height), (339, 3, sample)]
    order += [] if white is None else [(281, 3, white)]
    order += [(258, 3, None), (273, 4, None), (279, 4, values.nbytes)]
    order.sort()
    start = 8
    end = start + 2 + 12 * len(order) + 4
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    entries = b""
    for tag, kind, value in order:
        if tag == 258:
            inline = depths.ljust(4, b"\0") if channels < 3 else struct.pack("<I", end)
            entries += struct.pack("<HHI", tag, kind, channels) + inline
        else:
            value = end + len(depths) if tag == 273 else value
            entries += struct.pack("<HHII", tag, kind, 1, value)
    head = b"II*\0" + struct.pack("<I", start) + struct.pack("<H", len(order))
    return head + entries + b"\0\0\0\0" + depths + values.tobytes()


def noise(shape, high, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


# -- canvas --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((375, 500), (256, 341)),
        ((500, 375), (341, 256)),
        ((400, 600), (256, 384)),
        ((400, 900), (256, 384)),
        ((900, 400), (384, 256)),
        ((100, 80), (100, 80)),
        ((260, 80), (260, 80)),
        ((90, 500), (90, 384)),
        ((256, 256), (256, 256)),
    ],
)
def test_a_canvas_keeps_the_shorter_side(shape, size):
    image = noise((*shape, 3), 256, np.uint8)
    placed, valid = canvas.pad_to_canvas(image, canvas.canvas_of(256))
    assert placed.shape == (256, 384, 3) and tuple(valid) == size
    turned = valid[0] > 256
    kept = placed.swapaxes(0, 1) if turned else placed
    assert kept[valid[0] :].max(initial=0) == kept[:, valid[1] :].max(initial=0) == 0
    if min(shape) <= 256:  # not shrunk: the very pixels, of a long side the middle ones
        top, left = ((a - b) // 2 for a, b in zip(shape, size, strict=True))
        want = image[top : top + size[0], left : left + size[1]]
        np.testing.assert_array_equal(kept[: size[0], : size[1]], want)


def test_aspect_decides_what_is_kept_of_the_longer_side(tmp_path):
    path = folder(tmp_path, {"a.png": encode(noise((40, 100, 3), 256, np.uint8))})
    for aspect, width in ((1.0, 20), (1.5, 30), (2.5, 50)):
        source = open_source(source="folder", path=path, max_side=20, aspect=aspect)
        assert source.fields["image"].shape == (20, width, 3)
        assert source.read(np.arange(1))["size"].tolist() == [[20, width]]


# -- depth ---------------------------------------------------------------------------------------

TWELVE = noise((6, 9), 4096)
THREE = noise((6, 9, 3), 4096)
DEEP = {
    "gray png": (png(TWELVE, 0), TWELVE[..., None]),
    "rgb png": (png(THREE, 2), THREE),
    "gray alpha png": (png(np.stack([TWELVE, TWELVE // 2], 2), 4), TWELVE[..., None]),
    "rgb alpha png": (png(np.concatenate([THREE, THREE[..., :1]], 2), 6), THREE),
    "gray tiff": (tiff(TWELVE, 16), TWELVE[..., None]),
    "rgb tiff": (tiff(THREE, 16), THREE),
    "packed tiff": (encode(Image.fromarray(TWELVE), "TIFF", compression="tiff_lzw"),
                    TWELVE[..., None]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
def test_sixteen_bits_are_kept_whatever_the_format(name):
    content, want = DEEP[name]
    found = decode.look(content)
    np.testing.assert_array_equal(found.values, want)
    channels = want.shape[2]
    got = decode.decode(content, channels, white=4095.0)
    assert got.dtype == np.uint16
    assert np.abs(got - want * (65535 / 4095)).max() <= 0.51
    with pytest.raises(Unreadable, match=r"16-bit .*data\.max_value=\d+"):
        decode.decode(content, channels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bits_stay_eight_bits_and_fit_among_sixteen(mode):
    image = Image.fromarray(noise((8, 10, 3), 256, np.uint8)).convert(mode)
    content = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    assert decode.look(content) is None
    plain = decode.decode(content, 3)
    assert plain.dtype == np.uint8
    np.testing.assert_array_equal(decode.decode(content, 3, white=4095.0), plain * np.uint16(257))


def test_a_folder_of_twelve_bits_fills_the_range(tmp_path, caplog):
    files = {f"{i}.png": png(THREE // 2 * 2, 2) for i in range(5)}
    files["small.jpg"] = encode(np.full((4, 4, 3), 255, np.uint8), "JPEG")
    with caplog.at_level("INFO", "jssl"):
        source = open_folder(folder(tmp_path, files), "train", 32, 3)
    assert (source.max_value, source.fields["image"].dtype) == (4095.0, np.uint16)
    assert "data.max_value" in caplog.text
    image = source.read(np.arange(6))["image"]
    assert image.dtype == np.uint16 and image[:5].max() > 65000 and image[5].max() == 65535
    assert example_bytes(source) - 12 == 2 * np.prod(source.fields["image"].shape)
    out = tmp_path / "out"
    packed.pack(source, str(out), lambda *_: None)
    again = packed.open_packed(str(out), "train")
    np.testing.assert_array_equal(again.read(np.arange(6))["image"], image)


def test_a_folder_of_eight_bits_costs_nothing(tmp_path):
    files = {"a.png": encode(noise((5, 5, 3), 256, np.uint8)), "b.gif": b"", "c.tif": b"II*\0"}
    source = open_folder(folder(tmp_path, files), "train", 8, 3)
    assert (source.max_value, source.fields["image"].dtype) == (0.0, np.uint8)


def test_the_file_may_say_what_white_is():
    for said, high, white in ((10_000, 9_000, 10_000.0), (100, 9_000, 16_383.0)):
        content = tiff(noise((5, 6), high), 16, white=said)
        assert depth.find_white([decode.look(content)], "data.path=x") == white
    bits = chunk(b"sBIT", b"\x0c")
    raw = decode.look(png(TWELVE, 0, bits))
    scaled = decode.look(png(TWELVE << 4, 0, bits))
    assert (raw.white, scaled.white) == (4095.0, 65535.0)
    gray = io.BytesIO(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert decode.look(gray.getvalue()).values.max() == decode.look(gray.getvalue()).white == 65535


@pytest.mark.parametrize(
    ("values", "bits", "sample", "kind"),
    [
        (np.linspace(-1, 3, 30, dtype=np.float32).reshape(5, 6), 32, 3, "floating-point"),
        (np.arange(-5, 25, dtype=np.int16).reshape(5, 6), 16, 2, "16-bit signed"),
        (np.arange(30, dtype=np.int32).reshape(5, 6) * 9999, 32, 2, "32-bit integer"),
    ],
)
def test_numbers_of_unknown_range_are_asked_for(tmp_path, values, bits, sample, kind):
    path = folder(tmp_path, {"a.tif": tiff(values, bits, sample)})
    with pytest.raises(UserError, match=f"{kind} .*; set --config.data.max_value") as caught:
        open_folder(path, "train", 8, 1)
    cure = float(str(caught.value).rpartition("data.max_value=")[2])
    image = open_folder(path, "train", 8, 1, max_value=cure).read(np.arange(1))["image"]
    want = (values / values.max()).clip(0, 1) * 65535
    np.testing.assert_allclose(image[0, :5, :6, 0], want, atol=1)


def test_black_and_white_data_sets_are_warned_of(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="jssl")  # the name of the folder has "black" in it
    for value in (3, 254, 128):
        caplog.clear()
        image = np.full((6, 9, 3), value, np.uint8)
        path = folder(tmp_path / str(value), {f"{i}.png": encode(image) for i in range(3)})
        section = dict(
            source="folder",
            name="",
            path=path,
            dir="",
            split="train",
            max_side=8,
            channels=3,
            on_device=False,
            workers=0,
            max_corrupt_fraction=0.0,
        )
        data.load(**section)
        assert ("data.max_value" in caplog.text) == (value != 128)
        if value == 3:  # the cure that it gives
            assert "black" in caplog.text and "largest here is 3)" in caplog.text
            caplog.clear()
            batch = data.load(**section, max_value=6.0).source.read(np.arange(1))
            assert batch["image"][0, :6, :9].mean() == pytest.approx(65535 / 2, abs=1)
            assert "black" not in caplog.text


# -- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation(format, orientation):
    image, exif = Image.fromarray(noise((8, 16, 3), 256, np.uint8)), Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, format, exif=exif)
    with Image.open(io.BytesIO(content)) as again:
        plain, want = (
            np.asarray(again.convert("RGB")),
            np.asarray(ImageOps.exif_transpose(again).convert("RGB")),
        )
    near = 4 if format == "JPEG" else 0
    assert np.abs(decode.decode(content, 3).astype(int) - plain).max() <= near
    assert np.abs(decode.decode(content, 3, exif=True).astype(int) - want).max() <= near


def test_exif_is_on_for_folders_and_can_be_off(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(noise((8, 12, 3), 256, np.uint8), "JPEG", exif=exif)
    path = folder(tmp_path, {"a.jpg": content})
    for word, size in (("auto", [12, 8]), ("on", [12, 8]), ("off", [8, 12])):
        source = open_source(source="folder", path=path, max_side=32, exif=word)
        assert source.read(np.arange(1))["size"].tolist() == [size]


# -- what an image may cost ----------------------------------------------------------------------


def test_a_jpeg_of_very_many_scans_is_refused_undecoded(monkeypatch):
    content = encode(noise((64, 64, 3), 256, np.uint8), "JPEG", progressive=True)
    assert decode.decode(content, 3).shape == (64, 64, 3)
    scan = content[content.rfind(b"\xff\xda") : -2]
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", lambda *_, **__: 1 / 0)
    with pytest.raises(Unreadable, match="scans"):
        decode.decode(content[:-2] + scan * 2000 + b"\xff\xd9", 3, 8)
    monkeypatch.setattr(limits, "SCANNED", 64 * 64 * 50)
    with pytest.raises(Unreadable, match="scans"):
        decode.decode(content[:-2] + scan * 60 + b"\xff\xd9", 3, 8)
    with pytest.raises(Unreadable, match="cannot hold"):
        limits.check_jpeg(b"\xff\xd8" + bytes(1000), 9400, 9400)


def test_large_images_wait_for_each_other():
    budget, large = limits.Budget(2 * limits.SMALL), 2 * limits.SMALL
    inside, entered = threading.Semaphore(0), threading.Semaphore(0)

    def second():
        with budget.hold(10 * large):
            entered.release()

    with budget.hold(large):
        thread = threading.Thread(target=lambda: (inside.release(), second()))
        thread.start()
        inside.acquire()
        with budget.hold(limits.SMALL):  # small ones pass
            assert not entered.acquire(timeout=0.2)
    thread.join(timeout=60)
    assert entered.acquire(blocking=False)


class PanicException(BaseException):
    """As what PyO3 raises where Rust panics."""


@pytest.mark.parametrize("error", [MemoryError, RecursionError, PanicException, KeyError, OSError])
def test_whatever_a_library_raises_is_unreadable(monkeypatch, error):
    def fail(*_, **__):
        raise error("deep inside")

    monkeypatch.setattr(decode.Image, "open", fail)
    with pytest.raises(Unreadable, match="deep inside"):
        decode.decode(b"GIF89a", 3)
    for stop in (KeyboardInterrupt, SystemExit):
        monkeypatch.setattr(decode.Image, "open", lambda *_, stop=stop, **__: exec("raise stop()"))
        with pytest.raises(stop):
            decode.decode(b"GIF89a", 3)


def test_a_record_that_cannot_be_read_now_is_not_damaged():
    class Failing(list):
        def __getitem__(self, index):
            raise OSError(errno.EIO, "Input/output error")

    source = TfdsImages(
        "x", "data.name=x", Failing([0]), "image", decode.Pixels(8, (8, 12, 3)), None
    )
    with pytest.raises(UserError, match="cannot be read now"):
        source.read(np.arange(1))


def test_libtiff_writes_nothing_past_python():
    image = encode(noise((64, 64), 256, np.uint8), "TIFF", compression="tiff_lzw")
    at = 60
    broken = image[:at] + bytes(b ^ 0x5A for b in image[at : at + 400]) + image[at + 400 :]
    code = "from jssl.data.decode import *\ntry: decode({!r}, 3)\nexcept Unreadable: print('no')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code.format(broken)], capture_output=True, text=True,
        env=environment, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("no\n", "")
