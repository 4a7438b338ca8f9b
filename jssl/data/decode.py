"""From encoded bytes to pixels on a canvas, and what happens where the bytes are damaged.

Pixels are what the file stores, and an alpha channel is dropped. EXIF orientation is applied if
asked for: photos of telephones need it, and ImageNet practice ignores it (the
`PIL.Image.convert("RGB")` of torchvision/datasets/folder.py, `tf.io.decode_jpeg` of TFDS). TIFF's
own orientation is always applied, by Pillow. Of an animation the first frame is taken.
"""

import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, features

from jssl.config import UserError
from jssl.data import depth, files
from jssl.data.canvas import pad_to_canvas
from jssl.data.limits import (
    DECODING,
    Unreadable,
    check_jpeg,
    check_pixels,
    check_scans,
    silence_tiff,
)

# Named, so that no bytes can reach Pillow's slow or external decoders (EPS starts Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
if features.check("avif"):
    _FORMATS += ("AVIF",)
_STRIPS = 273
_TILES = 324  # tags of TIFF: where the parts of an image begin
_PLAIN_JPEG = ("YCbCr", "Gray", "RGB")
_TURNS = {  # EXIF orientation -> [h, w, C] upright
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}

# Pillow remarks on odd metadata once per file. A damaged example is reported by the feed instead.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Pixels(NamedTuple):
    """How the images of a data set become pixels on a canvas: ``pixels(data) -> (image, size)``.

    Attributes:
        short: The shorter side that an image keeps.
        canvas: (H, W, C) of all of them.
        exif: Whether EXIF orientation is applied.
        white: 0 for images of 8 bits, which stay uint8; else see `jssl.data.depth`.
    """

    short: int
    canvas: tuple[int, int, int]
    exif: bool = False
    white: float = 0.0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.white else np.uint8)

    def __call__(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        image = decode(data, self.canvas[2], self.short, exif=self.exif, white=self.white)
        return pad_to_canvas(image, self.canvas[:2])


def decode(
    data: bytes, channels: int, short: int = 0, *, exif: bool = False, white: float = 0.0
) -> np.ndarray:
    """The pixels of an encoded image: [h, w, channels], channels 1 (luma) or 3 (RGB).

    JPEG is decoded by libjpeg-turbo; with `short` > 0 and a shorter side of at least four times
    that, at a reduced size of still at least twice as much (DCT scaling, as Pillow's
    `reducing_gap=2.0`). Everything else, and JPEG that libjpeg-turbo objects to, goes to Pillow.

    With `white` the pixels are uint16, and `white` becomes 65,535; white of an image of 8 bits is
    255 at most. Without, they are uint8.

    Raises:
        Unreadable: For any bytes that are no image, or one that costs too much (`jssl.data.limits`)
            or has more than 8 bits while `white` is 0. Nothing else is raised.
    """
    try:
        with files.foreign("the image"):
            return _decoded(data, channels, short, exif, white)
    except (files.Damaged, files.Unreachable) as error:
        cause = error.__cause__ or error
        raise Unreadable(_one_line(cause)) from None


def look(data: bytes) -> depth.Levels | None:
    """The numbers of an image of more than 8 bits; None for others, and for what is no image."""
    try:
        with files.foreign("the image"), _opened(data) as image:
            if not depth.is_deep(image):
                return None
            with DECODING.hold(2 * image.height * image.width):
                return depth.levels(image, data)
    except (files.Damaged, files.Unreachable):
        return None


def assemble(
    indices: np.ndarray, load: Callable, length: int, pixels: Pixels, labelled: bool, key: str
) -> dict[str, np.ndarray]:
    """Reads n examples by `load(i) -> (image, size, label)`, which may raise Unreadable.

    Returns image [n, H, W, C] of the dtype of `pixels`, size int32 [n, 2], index int32 [n], label
    int32 [n] if `labelled`, and damaged int32 [n]: -1, or the wanted example where that was
    unreadable. The next readable one (index + 1, + 2, ... modulo `length`) stands in for it, and
    `index` is then the substitute's and `label` -1. Raises UserError naming `key` (as
    "data.path=x") if no example can be read.
    """
    n = len(indices)
    batch = {
        "image": np.empty((n, *pixels.canvas), pixels.dtype),
        "size": np.empty((n, 2), np.int32),
        "index": np.empty(n, np.int32),
        "damaged": np.full(n, -1, np.int32),
    }
    labels = np.empty(n, np.int32)
    for row, wanted in enumerate(indices.tolist()):
        found, example = _readable(wanted, load, length, key)
        batch["image"][row], batch["size"][row], label = example
        labels[row] = label if found == wanted else -1  # a substitute's label would count twice
        batch["index"][row] = found
        batch["damaged"][row] = -1 if found == wanted else wanted
    return batch | {"label": labels} if labelled else batch


def _readable(wanted, load, length, key):
    for offset in range(length):
        found = (wanted + offset) % length
        try:
            return found, load(found)
        except Unreadable as error:
            reason = error.reason
    raise UserError(
        f"{key} is wrong because none of its {length} examples can be read (the last: {reason}); "
        "give a folder of intact JPEG, PNG, WebP, BMP, GIF or TIFF images"
    )


def _decoded(data, channels, short, exif, white):
    try:
        image = _jpeg(data, channels, short)
        turn = _orientation_of(data) if exif else 1
    except Unreadable:
        raise
    except Exception:  # noqa: BLE001 - no JPEG, or one with an oddity that Pillow may forgive: it decides
        image, turn = _pillow(data, channels, exif, white)
    image = _TURNS[turn](image) if turn in _TURNS else image
    if white and image.dtype == np.uint8:
        return depth.full_scale(image, min(white, 255.0), channels)
    return image


def _jpeg(data, channels, short):
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    check_pixels(height, width)
    check_jpeg(data, height, width)
    if colours not in _PLAIN_JPEG:
        raise ValueError(f"{colours} is left to Pillow, which knows Adobe's inverted inks")
    reduce = 0 < 4 * short <= min(height, width)
    least = {"min_height" if width >= height else "min_width": 2 * short} if reduce else {}
    with DECODING.hold(height * width):
        return simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY", **least)


def _pillow(data, channels, exif, white):
    """(pixels, EXIF orientation)."""
    with _opened(data) as image:
        deep = depth.is_deep(image)
        with DECODING.hold((1 + deep) * image.height * image.width):
            if deep:
                pixels = _deep(image, data, channels, white)
            else:
                pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        turn = _orientation(image) if exif else 1
    return pixels.reshape(*pixels.shape[:2], channels), turn


def _opened(data):
    """The image as Pillow opens it, without its pixels."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS + _phones(data))
    check_pixels(image.height, image.width)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(data, image.height, image.width)
    if image.format == "TIFF":
        silence_tiff()
        if image.info.get("compression") == "jpeg":
            parts = image.tag_v2.get(_STRIPS) or image.tag_v2.get(_TILES) or (0,)
            check_scans(data, image.height, image.width, len(parts))
    return image


def _deep(image, data, channels, white):
    found = depth.levels(image, data)
    if not white:
        raise Unreadable(
            f"it has {found.kind} pixels, and the images that were looked at have 8 bits; "
            f"set data.max_value, as data.max_value={found.white or found.values.max():g}"
        )
    return depth.full_scale(found.values, white, channels)


def _phones(data):
    """The format of pillow-heif, for bytes that are of this kind, where it is installed."""
    return ("HEIF",) if data[4:8] == b"ftyp" and _has_heif() else ()


@functools.cache
def _has_heif():
    if not importlib.util.find_spec("pillow_heif"):
        return False
    import pillow_heif  # takes a while, and few need it

    pillow_heif.register_heif_opener()
    return True


def _orientation_of(data):
    """The EXIF orientation of a JPEG; most have no EXIF, and are not opened a second time."""
    if b"Exif\0\0" not in data[: 2**17]:
        return 1
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return _orientation(image)


def _orientation(image):
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - EXIF of any bytes; the pixels are fine without
        return 1


def _one_line(error):
    text = str(error).split(" <", 1)[0]  # "cannot identify image file <_io.BytesIO ...>"
    return " ".join(text.split()) or type(error).__name__
