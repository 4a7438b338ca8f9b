"""The canvas: one shape for all images of a data set, although their own shapes differ.

Torchvision's `Resize(256)` bounds the shorter side of an image, and so does a canvas. The canvas is
in landscape: its height is the shorter side, and its width is `aspect` times the height. An image
in portrait is turned. Examples, for a shorter side of 256 and an aspect of 1.5 (256 x 384):

    500 x 375 (width x height)   shrunk to 341 x 256
    375 x 500                    shrunk to 256 x 341, and turned: rows become columns
    600 x 400                    shrunk to 384 x 256: the widest image that is kept as a whole
    900 x 400                    shrunk to 576 x 256, of which the middle 384 are kept
    100 x 80                     kept as it is, and never enlarged
"""

import math

import numpy as np
from PIL import Image

ASPECT = 1.5  # of photos of most cameras; photos of phones have 4:3


def canvas_of(short: int, aspect: float = ASPECT) -> tuple[int, int]:
    """Returns (height, width) of the canvas for images whose shorter side is at most `short`."""
    return short, math.ceil(short * aspect - 1e-6)


def fitted(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) that an image keeps on a canvas (height, width)."""
    short = min(height, width)
    long = max(height, width)
    if short > canvas[0]:
        long = max(1, int(canvas[0] * long / short))  # rounded down, as torchvision does
        short = canvas[0]
    long = min(long, canvas[1])
    return (short, long) if height <= width else (long, short)


def pad_to_canvas(image: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Puts an image at the top left of a canvas.

    An image whose shorter side exceeds the canvas is shrunk, with Pillow's antialiased bilinear
    filter (torchvision's `Resize`). No image is enlarged. If the longer side then exceeds the
    canvas, its middle is kept. An image that is higher than the canvas is turned: its rows are the
    columns of the canvas.

    Args:
      image: uint8 or uint16 [h, w, C].
      canvas: height and width of the canvas; the height must not exceed the width.

    Returns:
      The canvas, [height, width, C] of the image's dtype, zero beside the image; and the height and
      width of the image before it was turned, int32 [2]. The image was turned if and only if this
      height exceeds the canvas.
    """
    height, width = fitted(image.shape[0], image.shape[1], canvas)
    image = _shrink(_middle(image, canvas), height, width)
    if height > canvas[0]:
        image = image.swapaxes(0, 1)
    placed = np.zeros((*canvas, image.shape[2]), image.dtype)
    placed[: image.shape[0], : image.shape[1]] = image
    return placed, np.array([height, width], np.int32)


def unpadded(placed: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns the part of a canvas [H, W, C] that the image covers; a turned image stays turned."""
    height, width = size
    if height > placed.shape[0]:
        height, width = width, height
    return placed[:height, :width]


def _middle(image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Crops both ends of the longer side if it is too long for the canvas."""
    height, width = image.shape[:2]
    scale = max(1.0, min(height, width) / canvas[0])
    keep = math.ceil(canvas[1] * scale)
    top, left = (max(0, (side - keep) // 2) for side in (height, width))
    return image[top : top + keep, left : left + keep]


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to a smaller size by Pillow; 16 bits channel by channel, in floating point."""
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8:
        gray = image.shape[2] == 1
        small = _resize(Image.fromarray(image[..., 0] if gray else image), height, width)
        return small[..., None] if gray else small
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(image, 2, 0)]
    small = [_resize(Image.fromarray(plane.astype(np.float32)), height, width) for plane in planes]
    return np.round(np.stack(small, axis=2)).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)


def _resize(image: Image.Image, height: int, width: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
