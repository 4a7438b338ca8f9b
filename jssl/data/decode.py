"""Decodes images to pixels on a canvas, and replaces the examples that cannot be decoded.

Pixels are the stored ones, and an alpha channel is dropped. EXIF orientation is applied on request:
photos of phones need it, and ImageNet practice ignores it (the `PIL.Image.convert("RGB")` of
torchvision/datasets/folder.py, `tf.io.decode_jpeg` of TFDS). Pillow always applies TIFF's own
orientation. Only the first frame of an animation is read.
"""

import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, features

from jssl.config import UserError
from jssl.data import depth, files, jpeg
from jssl.data.canvas import pad_to_canvas
from jssl.data.limits import (
    DECODING,
    Unreadable,
    check_jpeg,
    check_pixels,
    check_scans,
    silence_tiff,
)
from jssl.data.source import Batch

Example = tuple[np.ndarray, np.ndarray, int]  # image [H, W, C], size int32 [2], label

# A fixed list, so that no bytes reach Pillow's slow or external decoders (EPS starts Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
if features.check("avif"):
    _FORMATS += ("AVIF",)
_STRIPS = 273  # tags of TIFF: the offsets of the parts of an image
_TILES = 324
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

# Pillow warns of unusual metadata once per file. The feed reports a damaged example instead.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Pixels(NamedTuple):
    """Decodes the images of a data set to pixels on a canvas: ``pixels(data) -> (image, size)``.

    Attributes:
      short: the shorter side that an image keeps.
      canvas: (H, W, C) of all images.
      exif: whether EXIF orientation is applied.
      white: 0 for images of 8 bits, which stay uint8; else see `jssl.data.depth`.
    """

    short: int
    canvas: tuple[int, int, int]
    exif: bool = False
    white: float = 0.0

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the pixels."""
        return np.dtype(np.uint16 if self.white else np.uint8)

    def __call__(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Decodes an encoded image.

        Returns:
          The image on its canvas [H, W, C] and its size int32 [2] (`canvas.pad_to_canvas`).

        Raises:
          Unreadable: see `decode`.
        """
        image = decode(data, self.canvas[2], self.short, exif=self.exif, white=self.white)
        return pad_to_canvas(image, self.canvas[:2])


def decode(
    data: bytes, channels: int, short: int = 0, *, exif: bool = False, white: float = 0.0
) -> np.ndarray:
    """Decodes an image to [h, w, channels].

    libjpeg-turbo decodes JPEG. If the shorter side is at least four times `short`, it decodes at a
    reduced size of at least twice `short` (DCT scaling, as Pillow's `reducing_gap=2.0`). Pillow
    decodes everything else, and any JPEG that libjpeg-turbo refuses.

    Args:
      data: the encoded image.
      channels: 1 (luma) or 3 (RGB).
      short: the shorter side that the caller keeps, in pixels; 0: no reduction.
      exif: whether EXIF orientation is applied.
      white: the pixel value that becomes 65,535 in a uint16 result (for an image of 8 bits at most
        255). If it is 0, the result is uint8.

    Raises:
      Unreadable: the bytes are not an image, or the image is too expensive (`jssl.data.limits`), or
        it has more than 8 bits while `white` is 0. Nothing else is raised.
    """
    try:
        with files.foreign("the image"):
            return _decoded(data, channels, short, exif, white)
    except (files.Damaged, files.Unreachable) as error:
        cause = error.__cause__ or error
        raise Unreadable(_one_line(cause)) from None


def look(data: bytes) -> depth.Levels | None:
    """Returns the stored numbers of an image of more than 8 bits.

    Returns None for an image of 8 bits, and for bytes that are not an image.
    """
    try:
        with files.foreign("the image"), opened(data) as image:
            if not depth.is_deep(image):
                return None
            with DECODING.hold(2 * image.height * image.width):
                return depth.levels(image, data)
    except (files.Damaged, files.Unreachable):
        return None


def assemble(
    indices: np.ndarray,
    load: Callable[[int], Example],
    length: int,
    pixels: Pixels,
    labeled: bool,
    key: str,
) -> Batch:
    """Reads n examples into a batch.

    The next readable example (index + 1, + 2, ... modulo `length`) replaces an unreadable one.
    `index` is then the index of the replacement, and `label` is -1.

    Args:
      indices: int [n], the examples.
      load: load(i) -> (image, size, label); it may raise Unreadable.
      length: number of examples of the source.
      pixels: the canvas and the dtype of the images.
      labeled: whether the batch has labels.
      key: the key and the value that the error names (as "data.path=x").

    Returns:
      image [n, H, W, C] of the dtype of `pixels`, size int32 [n, 2], index int32 [n], label int32
      [n] if `labeled`, and damaged int32 [n]: -1, or the index of the unreadable example.

    Raises:
      UserError: no example can be read.
    """
    n = len(indices)
    batch = {
        "image": np.empty((n, *pixels.canvas), pixels.dtype),
        "size": np.empty((n, 2), np.int32),
        "index": np.empty(n, np.int32),
        "damaged": np.full(n, -1, np.int32),
    }
    labels = np.empty(n, np.int32)
    for row, index in enumerate(indices.tolist()):
        actual, (image, size, label) = _readable(index, load, length, key)
        batch["image"][row] = image
        batch["size"][row] = size
        labels[row] = label if actual == index else -1  # a replacement's label would count twice
        batch["index"][row] = actual
        batch["damaged"][row] = -1 if actual == index else index
    return batch | {"label": labels} if labeled else batch


def _readable(
    index: int, load: Callable[[int], Example], length: int, key: str
) -> tuple[int, Example]:
    """Returns (index, example) of the first readable example from `index` on."""
    reason = ""
    for offset in range(length):
        actual = (index + offset) % length
        try:
            return actual, load(actual)
        except Unreadable as error:
            reason = error.reason
    raise UserError(
        f"{key}: none of its {length} examples can be read (the last: {reason}); "
        "give a folder of intact JPEG, PNG, WebP, BMP, GIF or TIFF images"
    )


def _decoded(data: bytes, channels: int, short: int, exif: bool, white: float) -> np.ndarray:
    """Does the work of `decode`; raises errors of any type."""
    try:
        image = _jpeg(data, channels, short)
        turn = _orientation_of(data) if exif else 1
    except Unreadable:
        raise
    except Exception:  # noqa: BLE001 - not a JPEG, or one that Pillow may still read
        image, turn = _pillow(data, channels, exif, white)
    image = _TURNS[turn](image) if turn in _TURNS else image
    if white and image.dtype == np.uint8:
        return depth.full_scale(image, min(white, 255.0), channels)
    return image


def _jpeg(data: bytes, channels: int, short: int) -> np.ndarray:
    """Decodes a JPEG by libjpeg-turbo."""
    header = simplejpeg.decode_jpeg_header(data)
    height = int(header[0])
    width = int(header[1])
    color_space = header[2]
    check_pixels(height, width)
    check_jpeg(data, height, width)
    if color_space not in _PLAIN_JPEG:
        raise ValueError(f"{color_space} is left to Pillow, which knows Adobe's inverted inks")
    reduce = 0 < 4 * short <= min(height, width)
    least: dict[str, Any] = (
        {"min_height" if width >= height else "min_width": 2 * short} if reduce else {}
    )
    with DECODING.hold(height * width):
        return simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY", **least)


def _pillow(data: bytes, channels: int, exif: bool, white: float) -> tuple[np.ndarray, int]:
    """Decodes an image by Pillow: (pixels, EXIF orientation)."""
    with opened(data) as image:
        deep = depth.is_deep(image)
        with DECODING.hold((1 + deep) * image.height * image.width):
            if deep:
                pixels = _deep(image, data, channels, white)
            else:
                pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        turn = orientation(image) if exif else 1
    return pixels.reshape(*pixels.shape[:2], channels), turn


def opened(data: bytes) -> Image.Image:
    """Opens an image by Pillow, without decoding its pixels; raises errors of any type."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS + _phones(data))
    check_pixels(image.height, image.width)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(data, image.height, image.width)
    if image.format == "TIFF":
        silence_tiff()
        if image.info.get("compression") == "jpeg":
            tags = getattr(image, "tag_v2")  # noqa: B009 - only a TIFF has it
            offsets = tags.get(_STRIPS) or tags.get(_TILES) or (0,)
            check_scans(data, image.height, image.width, len(offsets))
    return image


def _deep(image: Image.Image, data: bytes, channels: int, white: float) -> np.ndarray:
    """Decodes an image of more than 8 bits."""
    levels = depth.levels(image, data)
    if not white:
        raise Unreadable(
            f"it has {levels.kind} pixels, and the images that were looked at have 8 bits; "
            f"set --config.data.max_value={levels.white or levels.values.max():g}, or what is white"
        )
    return depth.full_scale(levels.values, white, channels)


def _phones(data: bytes) -> tuple[str, ...]:
    """Returns the format of pillow-heif, if the bytes have it and pillow-heif is installed."""
    return ("HEIF",) if data[4:8] == b"ftyp" and _has_heif() else ()


@functools.cache
def _has_heif() -> bool:
    if not importlib.util.find_spec("pillow_heif"):
        return False
    import pillow_heif  # pyright: ignore[reportMissingImports] - optional, and slow to import

    pillow_heif.register_heif_opener()
    return True


def _orientation_of(data: bytes) -> int:
    """Returns the EXIF orientation of a JPEG. One without EXIF is not opened a second time."""
    if not jpeg.may_have_exif(data):
        return 1
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return orientation(image)


def orientation(image: Image.Image) -> Any:
    """Returns the EXIF orientation of an image that Pillow has opened; 1 if there is none."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - EXIF may hold any bytes; the pixels do not need it
        return 1


def _one_line(error: BaseException) -> str:
    text = str(error).split(" <", 1)[0]  # "cannot identify image file <_io.BytesIO ...>"
    return " ".join(text.split()) or type(error).__name__
