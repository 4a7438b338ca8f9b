"""What one encoded image may cost: pixels, scans, and memory while others are decoded beside it.

The decoders are C, and nothing can interrupt one. So what an image will cost is read from its
header, and an image that costs too much is refused before it is decoded.
"""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator

from PIL import Image

# Pillow's own limit against decompression bombs; the largest image of ImageNet has 61 megapixels.
PIXELS = 89_478_485
SCANS = 16  # of a progressive JPEG; encoders write about ten
SCANNED = 10**9  # pixels times scans, where there are more scans: about two seconds
MOST_SCANS = 1000
# Pixels for each byte. Baseline JPEG has at most 170 (a bit for each block and coefficient table),
# progressive 341; the rest is room for arithmetic coding.
JPEG_RATIO = 1024
SMALL = 2**23  # pixels that need no turn; sixteen threads have 2**27 of them at most
AT_ONCE = 2**27  # pixels of larger images that are decoded at the same time, about 1.5 GB


class Unreadable(Exception):
    """The bytes of one example are no image; `reason` says why in one line."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Budget:
    """So many pixels at once, for all threads of the process together."""

    def __init__(self, total: int):
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image of so many pixels; small ones never wait."""
        if pixels <= SMALL:
            yield
            return
        need = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= need)
            self._free -= need
        try:
            yield
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()


DECODING = Budget(AT_ONCE)


def check_pixels(height: int, width: int) -> None:
    """Raises Unreadable for an image of too many pixels."""
    if height * width > PIXELS:
        raise Unreadable(f"{width}x{height} pixels are more than the limit of {PIXELS}")


def check_jpeg(data: bytes, height: int, width: int) -> None:
    """Raises Unreadable for a JPEG that claims more than its bytes can hold, or that has too many
    scans."""
    pixels = height * width
    if pixels > max(2**20, JPEG_RATIO * len(data)):
        raise Unreadable(f"its {len(data)} bytes cannot hold {width}x{height} pixels")
    check_scans(data, height, width)


def check_scans(data: bytes, height: int, width: int, parts: int = 1) -> None:
    """Raises Unreadable for JPEG data whose many scans would each go over all pixels again; in a
    TIFF so many parts of the image are JPEGs of their own."""
    scans = data.count(b"\xff\xda") / parts  # coded data never has this marker
    if scans > MOST_SCANS or (scans > SCANS and scans * height * width > SCANNED):
        raise Unreadable(f"{scans:.0f} scans of {width}x{height} pixels take too long to decode")


@functools.cache
def silence_tiff() -> None:
    """libtiff writes about every damaged file to stderr, past Python; its own switch is turned off.

    Other builds of Pillow, which hide the switch, keep these lines.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(Image.core.__file__)  # and what it is linked with
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            switch = getattr(library, name)
            switch.argtypes = [ctypes.c_void_p]
            switch.restype = ctypes.c_void_p
            switch(None)
