"""Examples as HTML can show them: images as data URIs, rows of tokens as text."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from jssl.data.source import Batch
from jssl.evals.language import text

SIDE = 96  # pixels; a larger image is shrunk to it
CHARACTERS = 240  # of a text


def shown(source: Any, row: int) -> dict[str, str]:
    """Returns {"image": data URI} or {"text": text} of an example of a source."""
    if "tokens" in source.fields:
        return {"text": words(source, row)}
    return {"image": image_uri(image_of(source, row))}


def words(source: Any, row: int) -> str:
    """Returns the beginning of the text of an example."""
    batch = source.read(np.array([row]))
    ids = batch["tokens"][0][batch["segment"][0] > 0]
    whole = text(source.tokenizer, ids)
    return whole[:CHARACTERS] + ("..." if len(whole) > CHARACTERS else "")


def image_of(source: Any, row: int) -> np.ndarray:
    """Returns the image of an example as uint8 [H, W, C], without its canvas."""
    return pixels(source.read(np.array([row])), float(getattr(source, "max_value", 0) or 0))


def pixels(batch: Batch, white: float = 0.0) -> np.ndarray:
    """Returns the first image of a batch as uint8 [H, W, C], without its canvas.

    Args:
      batch: as a source of images returns it.
      white: the value of white; 0: the largest value of the dtype.
    """
    canvas = batch["image"][0]
    height, width = (int(side) for side in batch["size"][0])
    is_turned = height > canvas.shape[0]
    image = canvas[:width, :height].swapaxes(0, 1) if is_turned else canvas[:height, :width]
    if image.dtype != np.uint8:
        white = white or float(np.iinfo(image.dtype).max)
        image = np.clip(image.astype(np.float32) / white * 255 + 0.5, 0, 255).astype(np.uint8)
    return image


def image_uri(image: np.ndarray, side: int = SIDE) -> str:
    """Returns an image uint8 [H, W, C] as the data URI of a PNG, its longer side at most `side`."""
    output = io.BytesIO()
    thumbnail(image, side).save(output, "PNG", optimize=True)
    return png_uri(output.getvalue())


def thumbnail(image: np.ndarray, side: int) -> Image.Image:
    """Returns an image uint8 [H, W, C], its longer side at most `side`; of C != 3 the first."""
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def png_uri(content: bytes) -> str:
    """Returns the bytes of a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
