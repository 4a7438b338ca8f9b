"""From encoded bytes to pixels on a canvas, and what happens where the bytes are damaged.

Pixels are what the file stores: EXIF orientation is not applied and an alpha channel is dropped
(ImageNet practice: `PIL.Image.convert("RGB")` in torchvision/datasets/folder.py, and
`tf.io.decode_jpeg` in TFDS, do neither). Of an animation the first frame is taken.
"""

import io
import logging
import warnings
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, features

from jssl.config import UserError

# Pillow's own limit against decompression bombs; the largest image of ImageNet has 61 megapixels.
PIXELS = 89_478_485
# Named, so that no bytes can reach Pillow's slow or external decoders (EPS starts Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
if features.check("avif"):
    _FORMATS += ("AVIF",)
_PLAIN_JPEG = ("YCbCr", "Gray", "RGB")

# Pillow remarks on odd metadata once per file. A damaged example is reported by the feed instead.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Unreadable(Exception):
    """The bytes of one example are no image; `reason` says why in one line."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes, channels: int, canvas: int = 0) -> np.ndarray:
    """The pixels of an encoded image: uint8 [h, w, channels], channels 1 (luma) or 3 (RGB).

    JPEG is decoded by libjpeg-turbo; with `canvas` > 0 and a longer side of at least four times
    that, at a reduced size of still at least twice the canvas (DCT scaling, as Pillow's
    `reducing_gap=2.0`). Everything else, and JPEG that libjpeg-turbo objects to, goes to Pillow.
    16-bit images keep their high byte. Raises Unreadable, and nothing else, for any bytes.
    """
    try:
        return _jpeg(data, channels, canvas)
    except Unreadable:
        raise
    except Exception:  # noqa: BLE001 - no JPEG, or one with an oddity that Pillow may forgive: it decides
        return _pillow(data, channels)


def place(image: np.ndarray, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts uint8 [h, w, C] at the top-left of a canvas: uint8 [canvas, canvas, C], int32 [2].

    An image whose longer side exceeds the canvas is shrunk to fit, keeping the aspect ratio, with
    Pillow's antialiased bilinear filter (torchvision's `Resize`); none is ever enlarged. The rest
    of the canvas is zero. The second value is the valid (height, width).
    """
    longest = max(image.shape[:2])
    if longest > canvas:
        image = _shrink(image, canvas / longest)
    height, width, channels = image.shape
    placed = np.zeros((canvas, canvas, channels), np.uint8)
    placed[:height, :width] = image
    return placed, np.array([height, width], np.int32)


def assemble(
    indices: np.ndarray,
    load: Callable,
    length: int,
    canvas: tuple[int, int, int],
    labelled: bool,
    key: str,
) -> dict[str, np.ndarray]:
    """Reads n examples by `load(i) -> (image, size, label)`, which may raise Unreadable.

    Returns image uint8 [n, H, W, C], size int32 [n, 2], index int32 [n], label int32 [n] if
    `labelled`, and damaged int32 [n]: -1, or the wanted example where that was unreadable. The next
    readable one (index + 1, + 2, ... modulo `length`) stands in for it, and `index` is then the
    substitute's and `label` -1. Raises UserError naming `key` (as "data.path=x") if no example can
    be read.
    """
    n = len(indices)
    batch = {
        "image": np.empty((n, *canvas), np.uint8),
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


def _jpeg(data, channels, canvas):
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_pixels(height, width)
    if colours not in _PLAIN_JPEG:
        raise ValueError(f"{colours} is left to Pillow, which knows Adobe's inverted inks")
    reduce = 0 < 4 * canvas <= max(height, width)
    least = {"min_width" if width >= height else "min_height": 2 * canvas} if reduce else {}
    return simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY", **least)


def _pillow(data, channels):
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.height, image.width)
            pixels = np.asarray(_eight_bits(image).convert("RGB" if channels == 3 else "L"))
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise nearly every type
        raise Unreadable(_one_line(error)) from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _eight_bits(image):
    if image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    # convert("L") would clip 16-bit values at 255, and so turn nearly all of the image white.
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))


def _check_pixels(height, width):
    if height * width > PIXELS:
        raise Unreadable(f"{width}x{height} pixels are more than the limit of {PIXELS}")


def _one_line(error):
    text = str(error).split(" <", 1)[0]  # "cannot identify image file <_io.BytesIO ...>"
    return " ".join(text.split()) or type(error).__name__


def _shrink(image, scale):
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    grey = image.shape[2] == 1
    pixels = Image.fromarray(image[..., 0] if grey else image)
    small = np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
    return small[..., None] if grey else small
