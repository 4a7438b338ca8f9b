"""What one image tells: its size, mode, depth, range and orientation, and hashes of its content."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jssl.data import depth, files
from jssl.data.canvas import unpadded
from jssl.data.decode import look, opened, orientation
from jssl.data.fingerprint import spread
from jssl.data.limits import Unreadable
from jssl.data.source import Source
from jssl.data.sources.folder import ImageFolder
from jssl.data.sources.tfds_source import TfdsImages
from jssl.log import log_progress
from jssl.parallel import preemption

THREADS = 16  # decoders release Python's lock, and a file server answers many requests at a time
CHUNK = 32  # images that a thread reads one after the other
NEAR = 2 / 255  # of the range: pixels that differ less are equal to the eye


class Header(NamedTuple):
    """What an encoded image says of itself, without its pixels.

    Attributes:
      format: Pillow's name of the format: "JPEG".
      mode: Pillow's mode of the pixels: "RGB", "L", "RGBA", "I;16".
      height: height of the stored image in pixels, before EXIF orientation.
      width: width of the stored image in pixels.
      turn: EXIF orientation, 1 to 8; 1 is upright.
      frames: whether more than one frame is stored.
      deep: whether a channel has more than 8 bits.
    """

    format: str
    mode: str
    height: int
    width: int
    turn: int
    frames: bool
    deep: bool


class Facts(NamedTuple):
    """What one example tells.

    Attributes:
      index: index of the example.
      label: its label; -1 if it has none.
      problem: the reason why it cannot be read; "" if it can. The rest is then empty.
      header: see `Header`; of a source of arrays the format is "".
      kind: "8-bit", or the kind of deeper pixels (`jssl.data.depth.Levels`).
      low: the smallest stored number.
      high: the largest stored number.
      blank: "black", "constant", or "".
      gray: whether all channels are equal.
      content: SHA-256 of the encoded bytes; b"" for a source of arrays.
      pixels: hash of the pixels as training reads them.
    """

    index: int
    label: int
    problem: str = ""
    header: Header = Header("", "", 0, 0, 1, False, False)
    kind: str = "8-bit"
    low: float = 0.0
    high: float = 0.0
    blank: str = ""
    gray: bool = False
    content: bytes = b""
    pixels: bytes = b""


def gather(source: Source, limit: int, what: str) -> list[Facts]:
    """Reads at most `limit` images, evenly spaced over the source, by threads.

    Args:
      source: a source of images.
      limit: largest number of images.
      what: the name of the split, for the lines about progress.

    Raises:
      files.Unreachable: the system could not read a file now.
    """
    rows = spread(len(source), limit)
    encoded = isinstance(source, ImageFolder | TfdsImages)
    read: Callable[[Any, np.ndarray], list[Facts]] = _of_encoded if encoded else _of_arrays
    threads = THREADS if encoded else 1  # a source outside jssl may not be made for threads
    progress = log_progress(f"{what}: images looked at")
    facts: list[Facts] = []
    with preemption.pool(threads) as pool:
        parts = [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
        for part in pool.map(lambda part: read(source, part), parts):
            facts += part
            progress(len(facts), len(rows))
    return facts


def header_of(data: bytes) -> Header | None:
    """Returns the header of an encoded image; None if Pillow cannot open it."""
    try:
        with files.foreign("the image"), opened(data) as image:
            frames = image.format != "MPO" and getattr(image, "is_animated", False)
            format_name = "JPEG" if image.format == "MPO" else image.format or ""
            size = (image.height, image.width)
            turn = orientation(image)
            turn = turn if turn in range(2, 9) else 1
            return Header(format_name, image.mode, *size, turn, frames, depth.is_deep(image))
    except (files.Damaged, files.Unreachable, Unreadable):
        return None


def _of_encoded(source: Any, rows: np.ndarray) -> list[Facts]:
    """Returns the facts of encoded images, which the decoder of the source decodes."""
    facts = []
    for index, (data, label) in zip(rows.tolist(), source.encoded(rows), strict=True):
        try:
            if isinstance(data, Unreadable):
                raise data
            placed, size = source.pixels(data)
        except Unreadable as error:
            facts.append(Facts(index, label, error.reason))
            continue
        one = _of_pixels(index, label, placed, size, source.pixels.white)
        header = header_of(data) or one.header
        levels = look(data) if header.deep else None
        if levels is not None:
            low, high = float(np.nanmin(levels.values)), float(np.nanmax(levels.values))
            one = one._replace(kind=levels.kind, low=low, high=high)
        facts.append(one._replace(header=header, content=hashlib.sha256(data).digest()))
    return facts


def _of_arrays(source: Source, rows: np.ndarray) -> list[Facts]:
    """Returns the facts of images that the source gives as arrays."""
    batch = source.read(rows)
    facts = []
    for row, index in enumerate(rows.tolist()):
        label = int(batch["label"][row]) if "label" in batch else -1
        if batch["damaged"][row] >= 0:
            facts.append(Facts(index, label, "the source cannot read it"))
        else:
            facts.append(_of_pixels(index, label, batch["image"][row], batch["size"][row], 0.0))
    return facts


def _of_pixels(index: int, label: int, placed: np.ndarray, size: np.ndarray, white: float) -> Facts:
    """Returns the facts that pixels on a canvas tell; `white` became 65,535, or is 0."""
    image = unpadded(placed, size)
    full = np.iinfo(image.dtype).max
    scale = white / full if white else 1.0
    low, high = int(image.min()), int(image.max())
    blank = ""
    if (image.max(axis=(0, 1)) - image.min(axis=(0, 1))).max() <= NEAR * full:
        blank = "black" if high <= NEAR * full else "constant"
    gray = image.shape[2] == 1 or bool((image == image[..., :1]).all())
    modes = {1: "L", 3: "RGB"}
    mode = modes.get(image.shape[2], f"{image.shape[2]} channels")
    height, width = size.tolist()
    digest = hashlib.blake2b(repr((image.shape, height)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Facts(
        index=index,
        label=label,
        header=Header("", mode, height, width, 1, False, False),
        kind="8-bit" if white or image.dtype == np.uint8 else "16-bit",
        low=low * scale,
        high=high * scale,
        blank=blank,
        gray=gray,
        pixels=digest.digest(),
    )
