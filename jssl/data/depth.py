"""The range of pixels: images of more than 8 bits, and the value that is white in them.

In an image of 8 bits, white is 255. In one of 16 bits, white is often unknown: many instruments
write 12 bits into 16, so that white is 4,095 of 65,535, and the high bytes alone give black images.
So the pixels of such a data set are kept as uint16, scaled so that white becomes 65,535.
`find_white` infers white once, from files spread over the data set. The range of integers of 32
bits, of signed integers and of floating-point numbers cannot be inferred: they need
`data.max_value`.
"""

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jssl.config import UserError

log = logging.getLogger("jssl")

ENDINGS = (".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")  # formats that can have 16 bits
SAMPLE = 256  # files that are inspected, at most
FULL = 65535  # white of uint16
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's convert("L")
_MAX_SAMPLE_VALUE = 281  # tag of TIFF
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Levels(NamedTuple):
    """The stored numbers of an image of more than 8 bits.

    Attributes:
      values: [h, w, c], c being 1 or 3; without alpha.
      white: the number that is white according to the file; 0 if the file does not define it.
      kind: "16-bit", or the type of numbers of unknown range.
    """

    values: np.ndarray
    white: float
    kind: str


def is_deep(image: Image.Image) -> bool:
    """Returns whether an image that Pillow has opened stores more than 8 bits per channel."""
    return image.mode[0] in "IF" or "16" in _raw_mode(image)


def levels(image: Image.Image, data: bytes) -> Levels:
    """Returns the stored numbers of an image for which `is_deep` is true.

    Args:
      image: the image, opened by Pillow.
      data: the bytes from which Pillow opened it.

    Raises:
      ValueError: the layout cannot be read in full depth.
    """
    kind = "16-bit"
    format_white = 0.0
    if image.mode[0] in "IF":
        if image.mode == "F":
            kind = "floating-point"
        elif image.format == "PPM":
            format_white = FULL  # Pillow has scaled by the maximum in the header
        elif image.mode == "I":
            kind = "16-bit signed" if "16S" in _raw_mode(image) else "32-bit integer"
        elif "12" in _raw_mode(image):
            format_white = 2**12 - 1
        values = np.asarray(image)
    else:
        values = _two_bytes(image, data)
    white = _tag(image) or _significant(data, values) or format_white
    values = values if values.ndim == 3 else values[..., None]
    return Levels(values[..., : 3 if values.shape[2] > 2 else 1], white, kind)


def full_scale(values: np.ndarray, white: float, channels: int) -> np.ndarray:
    """Scales the pixels of an image so that `white` becomes 65,535.

    Args:
      values: [h, w, 1 or 3], any numbers.
      white: the number that is white.
      channels: channels of the result: 1 (luma) or 3 (RGB).

    Returns:
      uint16 [h, w, channels].
    """
    if values.shape[2] != channels:
        gray = values.shape[2] == 1
        values = np.repeat(values, 3, axis=2) if gray else (values @ LUMA)[..., None]
    if white == FULL and values.dtype == np.uint16:
        return values
    scaled = np.nan_to_num(values.astype(np.float32)) / np.float32(white)
    return (scaled.clip(0, 1) * FULL + 0.5).astype(np.uint16)


def find_white(found: Iterable[Levels | None], config_key: str) -> float:
    """Infers the white value of a data set; 0 if all of its images have 8 bits.

    If all files define white, and no number exceeds it, that value is used. Else white is the
    largest number of as many bits, at least 8, as the largest number needs. Instruments use a whole
    number of bits, so the pixels of files that were not inspected are not clipped.

    Args:
      found: the `Levels` of each image that was inspected, or None if it has 8 bits.
      config_key: the key and the value that messages name, as "data.path=x".

    Raises:
      UserError: some images have numbers of unknown range.
    """
    images = list(found)
    deep = [image for image in images if image is not None]
    if not deep:
        return 0.0
    low = min(float(np.nanmin(image.values)) for image in deep)
    high = max(float(np.nanmax(image.values)) for image in deep)
    cure = f"--config.data.max_value={high or 1:g}"
    for image in deep:
        if image.kind != "16-bit" and not image.white:
            raise UserError(
                f"{config_key} has {image.kind} pixels, {low:g} to {high:g} in {len(deep)} images; "
                f"nothing says which number is white; set {cure}"
            )
    file_whites = {image.white for image in deep}
    sure = 0 not in file_whites and high <= max(file_whites)
    white = max(file_whites) if sure else float(2 ** max(8, int(high).bit_length()) - 1)
    log.info(
        "%s: %d of %d images looked at have more than 8 bits, values %g to %g; %s white is %g "
        "(data.max_value)",
        config_key,
        len(deep),
        len(images),
        low,
        high,
        "as they say," if sure else "so",
        white,
    )
    return white


def _raw_mode(image: Image.Image) -> str:
    """Returns the mode in which Pillow unpacks the bytes, as "RGB;16B"; "" if it is unknown."""
    tile = getattr(image, "tile", None)
    if not tile:
        return ""
    args = tile[0].args
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _two_bytes(image: Image.Image, data: bytes) -> np.ndarray:
    """Returns 16 bits of an image of several channels, of which Pillow reads only the high bytes.

    Pillow reads the low bytes if the byte order is swapped. It has no such mode for gray with
    alpha, which is read as four channels of bytes.
    """
    raw = _raw_mode(image)
    formats = (image.format or "",)
    with Image.open(io.BytesIO(data), formats=formats) as other:
        if raw == "LA;16B":
            other.tile = [tile._replace(args="RGBA") for tile in other.tile]
            return _joined(np.asarray(other)[..., ::2], np.asarray(other)[..., 1::2])
        if image.mode not in ("RGB", "RGBA", "RGBX"):
            raise ValueError(f"its 16-bit pixels are {image.mode}; convert it to RGB")
        with Image.open(io.BytesIO(data), formats=formats) as swapped:
            swapped.tile = [tile._replace(args=_swapped(tile.args)) for tile in swapped.tile]
            return _joined(np.asarray(other), np.asarray(swapped))


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) << 8 | low


def _swapped(args: Any) -> Any:
    """Returns the arguments of a tile with the other byte order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    foreign = "B" if sys.byteorder == "little" else "L"
    for before, after in (("16N", f"16{foreign}"), ("16B", "16L"), ("16L", "16B")):
        if args.endswith(before):
            return args.removesuffix(before) + after
    raise ValueError(f"its 16-bit pixels are stored in a way that cannot be read ({args})")


def _tag(image: Image.Image) -> float:
    """Returns TIFF's MaxSampleValue; 0 if there is none."""
    value = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE, 0)
    value = value[0] if isinstance(value, tuple) and value else value
    return float(value) if isinstance(value, int | float) and 0 < value <= FULL else 0.0


def _significant(data: bytes, values: np.ndarray) -> float:
    """Returns white by PNG's sBIT chunk; 0 if there is none.

    The chunk holds the number of significant bits of the original. They should be the upper bits,
    scaled to the full range. If no number needs more than these bits, the file stores them
    unscaled.
    """
    end = data.find(b"IDAT")
    chunk = data.find(b"sBIT", 0, max(end, 0))
    if not data.startswith(_SIGNATURE) or chunk < 0 or not 0 < data[chunk + 4] <= 16:
        return 0.0
    bits = data[chunk + 4]
    return float(2**bits - 1 if values.max(initial=0) < 2**bits else FULL)
