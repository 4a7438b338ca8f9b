"""The range of pixels: images of more than 8 bits, and which value of theirs is white.

An image of 8 bits says what white is: 255. One of 16 bits often does not: many instruments write 12
bits into 16, so that white is 4,095 of 65,535, and taking the high byte gives black images. So the
pixels of such a set are kept as uint16, scaled so that `white` becomes 65,535. `find_white` finds
it once, from files spread over the data set. What the range of integers of 32 bits, signed ones and
floating-point numbers is, nothing can tell: they need `data.max_value`.
"""

import io
import logging
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from jssl.config import UserError

log = logging.getLogger("jssl")

ENDINGS = (".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")  # formats that can have 16 bits
SAMPLE = 256  # files that are looked at, at most
FULL = 65535  # white of uint16
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's convert("L")
_MAX_SAMPLE_VALUE = 281  # tag of TIFF
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Levels(NamedTuple):
    """The numbers that an image of more than 8 bits stores.

    Attributes:
        values: [h, w, c], c being 1 or 3; without alpha.
        white: The number that the file itself says is white; 0 if it says nothing.
        kind: "16-bit", or what numbers of unknown range it has.
    """

    values: np.ndarray
    white: float
    kind: str


def is_deep(image: Image.Image) -> bool:
    """Whether an image that Pillow has opened stores more than 8 bits a channel."""
    return image.mode[0] in "IF" or "16" in _raw_mode(image)


def levels(image: Image.Image, data: bytes) -> Levels:
    """The numbers of an image for which `is_deep`; `data` are the bytes it was opened from.

    Raises ValueError for a layout that cannot be read in full depth.
    """
    kind = "16-bit"
    said = 0.0
    if image.mode[0] in "IF":
        if image.mode == "F":
            kind = "floating-point"
        elif image.format == "PPM":
            said = FULL  # Pillow has scaled what the header calls the maximum
        elif image.mode == "I":
            kind = "16-bit signed" if "16S" in _raw_mode(image) else "32-bit integer"
        elif "12" in _raw_mode(image):
            said = 2**12 - 1
        values = np.asarray(image)
    else:
        values = _two_bytes(image, data)
    said = _tag(image) or _significant(data, values) or said
    values = values if values.ndim == 3 else values[..., None]
    return Levels(values[..., : 3 if values.shape[2] > 2 else 1], said, kind)


def full_scale(values: np.ndarray, white: float, channels: int) -> np.ndarray:
    """Numbers [h, w, 1 or 3], of which `white` is white -> uint16 [h, w, channels] to 65,535."""
    if values.shape[2] != channels:
        gray = values.shape[2] == 1
        values = np.repeat(values, 3, axis=2) if gray else (values @ LUMA)[..., None]
    if white == FULL and values.dtype == np.uint16:
        return values
    share = np.nan_to_num(values.astype(np.float32)) / np.float32(white)
    return (share.clip(0, 1) * FULL + 0.5).astype(np.uint16)


def find_white(found: Iterable[Levels | None], blame: str) -> float:
    """The white of a data set; 0 if all of its images have 8 bits.

    It is what the files say, if all say something that their numbers keep to. Else it is the
    largest number of so many bits, 8 at least, as the largest of their numbers needs: instruments
    have whole bits, and so other files than these are not cut off.

    Args:
        found: Of each image that was looked at its `Levels`, or None if it has 8 bits.
        blame: The key and value that messages name, as "data.path=x".

    Raises:
        UserError: Some have numbers of unknown range.
    """
    found = list(found)
    deep = [one for one in found if one is not None]
    if not deep:
        return 0.0
    low = min(float(np.nanmin(one.values)) for one in deep)
    high = max(float(np.nanmax(one.values)) for one in deep)
    cure = f"data.max_value={high or 1:g}"
    for one in deep:
        if one.kind != "16-bit" and not one.white:
            raise UserError(
                f"{blame} has {one.kind} pixels, {low:g} to {high:g} in {len(deep)} images; "
                f"nothing says which number is white; set data.max_value, as {cure}"
            )
    said = {one.white for one in deep}
    sure = 0 not in said and high <= max(said)
    white = max(said) if sure else float(2 ** max(8, int(high).bit_length()) - 1)
    log.info(
        "%s: %d of %d images looked at have more than 8 bits, values %g to %g; %s white is %g "
        "(data.max_value)",
        blame,
        len(deep),
        len(found),
        low,
        high,
        "as they say," if sure else "so",
        white,
    )
    return white


def _raw_mode(image):
    """How Pillow unpacks the bytes, as "RGB;16B"; "" if that is not known."""
    if not getattr(image, "tile", None):
        return ""
    args = image.tile[0].args
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def _two_bytes(image, data):
    """16 bits of an image of which Pillow only gives the high bytes (all with several channels).

    The low bytes are what it gives when it takes the byte order for the other one. Gray with alpha,
    for which it has no such mode, is read as four channels of bytes.
    """
    raw = _raw_mode(image)
    with Image.open(io.BytesIO(data), formats=(image.format,)) as other:
        if raw == "LA;16B":
            other.tile = [tile._replace(args="RGBA") for tile in other.tile]
            return _joined(np.asarray(other)[..., ::2], np.asarray(other)[..., 1::2])
        if image.mode not in ("RGB", "RGBA", "RGBX"):
            raise ValueError(f"its 16-bit pixels are {image.mode}; convert it to RGB")
        with Image.open(io.BytesIO(data), formats=(image.format,)) as swapped:
            swapped.tile = [tile._replace(args=_swapped(tile.args)) for tile in swapped.tile]
            return _joined(np.asarray(other), np.asarray(swapped))


def _joined(high, low):
    return high.astype(np.uint16) << 8 | low


def _swapped(args):
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    foreign = "B" if sys.byteorder == "little" else "L"
    for before, after in (("16N", f"16{foreign}"), ("16B", "16L"), ("16L", "16B")):
        if args.endswith(before):
            return args.removesuffix(before) + after
    raise ValueError(f"its 16-bit pixels are stored in a way that cannot be read ({args})")


def _tag(image):
    """TIFF's MaxSampleValue; 0 if there is none."""
    value = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE, 0)
    value = value[0] if isinstance(value, tuple) and value else value
    return float(value) if isinstance(value, int | float) and 0 < value <= FULL else 0.0


def _significant(data, values):
    """White by PNG's sBIT, how many bits of the original are in the pixels; 0 if it is not there.

    They should be the upper ones, scaled to the full range. Where no number needs more than these
    bits, they were written as they are.
    """
    end = data.find(b"IDAT")
    at = data.find(b"sBIT", 0, max(end, 0))
    if not data.startswith(_SIGNATURE) or at < 0 or not 0 < data[at + 4] <= 16:
        return 0.0
    bits = data[at + 4]
    return float(2**bits - 1 if values.max(initial=0) < 2**bits else FULL)
