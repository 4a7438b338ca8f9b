"""Sources of examples that a program has in memory: images in any form, and texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from jssl.config import UserError
from jssl.data import depth
from jssl.data.canvas import pad_to_canvas
from jssl.data.decode import Pixels, assemble
from jssl.data.limits import Unreadable
from jssl.data.source import Batch, image_fields
from jssl.data.sources.folder import read_patiently
from jssl.data.text.text_source import Tokens
from jssl.data.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import Modality


class MemoryImages:
    """A source of images without labels, in any mixture of these forms and of any sizes:

    - an array uint8 [H, W, C] or [H, W], with C 1, 3, or 4 (alpha is dropped);
    - a Pillow image, upright (EXIF orientation is applied);
    - the path of a file.
    """

    modality: Modality = "image"
    name = "the given images"
    classes = None
    fingerprint = ""

    def __init__(self, images: Sequence[Any] | np.ndarray, pixels: Pixels):
        """`pixels` defines the canvas and the dtype of the result."""
        self.images = images
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        return image_fields(self.pixels.canvas, self.pixels.dtype, labeled=False)

    def describe(self, index: int) -> str:
        """Returns the path, or the number of the image."""
        image = self.images[index]
        return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the images at `indices` (`jssl.data`).

        Raises:
          UserError: an image cannot be read; none replaces it.
        """
        return assemble(np.asarray(indices), self._load, len(self), self.pixels, False, self.name)

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        image = self.images[index]
        try:
            if isinstance(image, str | os.PathLike):
                return *self.pixels(read_patiently(os.fspath(image))), -1
            return *pad_to_canvas(self._array(image), self.pixels.canvas[:2]), -1
        except Unreadable as error:
            raise UserError(
                f"{self.describe(index)} cannot be read ({error.reason}); leave it out"
            ) from None

    def _array(self, image: Any) -> np.ndarray:
        """Converts an array or a Pillow image to the channels and the dtype of `pixels`."""
        channels = self.pixels.canvas[2]
        if isinstance(image, Image.Image):
            upright = ImageOps.exif_transpose(image)
            image = np.asarray(upright.convert("RGB" if channels == 3 else "L"))
        image = np.asarray(image)
        if image.ndim == 2:
            image = image[..., None]
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
            raise Unreadable(f"its shape is {image.shape}; use [H, W], [H, W, 1] or [H, W, 3]")
        if image.dtype != np.uint8:
            raise Unreadable(f"its dtype is {image.dtype}; use uint8, with white 255")
        image = image[..., :3] if image.shape[2] == 4 else image
        if image.shape[2] < channels:
            image = np.repeat(image, channels, axis=2)
        elif image.shape[2] > channels:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        if self.pixels.white:
            return depth.full_scale(image, 255.0, channels)
        return image


def texts(rows: Sequence[str], tokenizer: Tokenizer, length: int) -> Tokens:
    """Makes a source of texts, one in each row of `length` tokens; longer texts are cut.

    Raises:
      UserError: a text has no tokens.
    """
    encoded = tokenizer.encode_batch(list(rows))
    for index, ids in enumerate(encoded):
        if not len(ids):
            raise UserError(f"text {index} is empty ({rows[index]!r}); leave it out")
    end = np.array([tokenizer.vocab["end"]])
    flat = np.concatenate([part for ids in encoded for part in (ids, end)]).astype(np.uint32)
    offsets = np.cumsum([0, *(len(ids) + 1 for ids in encoded)])
    return Tokens("the given texts", flat, offsets, tokenizer, length, pack=False)
