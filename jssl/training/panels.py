"""Composes panels of images to one picture, with captions and gaps."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jssl.core import Panel

SMALLEST = 96  # pixels: the height of an image in a picture, at least
GAP = 8  # pixels between two images, and around all
FONT = 14  # pixels: the size of captions
PAPER = 255  # the color of the gaps
INK = (0, 0, 0)


def as_panel(value: Panel | np.ndarray) -> Panel:
    """Returns images [B, H, W, C] as a panel of one column without a caption."""
    return value if isinstance(value, Panel) else Panel((value,), ("",))


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Converts images float [B, H, W, C] in 0..1 to uint8 [B, H, W, 3].

    Three channels are RGB; of others the first is shown in gray. NaN is black.
    """
    finite = np.nan_to_num(np.asarray(images, np.float32), posinf=1.0, neginf=0.0)
    pixels = (np.clip(finite, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def enlarged(images: np.ndarray) -> np.ndarray:
    """Repeats the pixels of images [B, H, W, 3] by a whole factor, to a height of 96 or more."""
    factor = -(-SMALLEST // images.shape[1])
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def compose(panel: Panel) -> np.ndarray:
    """Draws a panel as one picture: a row for each example, a column for each caption.

    Images lie in the middle of their row and their column.

    Args:
      panel: B images in each column; the columns may differ in size.

    Returns:
      The picture, uint8 [H, W, 3].
    """
    columns = [enlarged(to_rgb(images)) for images in panel.images]
    font = ImageFont.load_default(size=FONT)
    boxes = [font.getbbox(caption) for caption in panel.captions]
    widths = [
        max(images.shape[2], int(box[2]) + 1) for images, box in zip(columns, boxes, strict=True)
    ]
    height = max(images.shape[1] for images in columns)
    top = GAP + (FONT + GAP if any(panel.captions) else 0)
    rows = len(columns[0])
    size = (sum(widths) + GAP * (len(widths) + 1), top + rows * (height + GAP))
    picture = Image.new("RGB", size, (PAPER,) * 3)
    draw = ImageDraw.Draw(picture)
    left = GAP
    for images, width, caption in zip(columns, widths, panel.captions, strict=True):
        draw.text((left + width / 2, GAP), caption, fill=INK, font=font, anchor="mt")
        for row, image in enumerate(images):
            x = left + (width - image.shape[1]) // 2
            y = top + row * (height + GAP) + (height - image.shape[0]) // 2
            picture.paste(Image.fromarray(image), (x, y))
        left += width + GAP
    return np.asarray(picture)


def to_png(picture: np.ndarray) -> bytes:
    """Encodes a picture uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
