"""Limits for one encoded image: pixels, scans, and memory while other images are decoded.

The decoders are C code, and nothing can interrupt them. So the cost of an image is read from its
header, and an image that is too expensive is refused before it is decoded.
"""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator

from PIL import Image

from jssl.data import jpeg

# Pillow's own limit against decompression bombs; the largest image of ImageNet has 61 megapixels.
PIXELS = 89_478_485
SCANS = 16  # of a progressive JPEG; encoders write about ten
SCANNED = 10**9  # pixels times scans, above SCANS scans: about two seconds
MOST_SCANS = 1000  # in any case
# Pixels for each byte. Baseline JPEG has at most 170 (a bit for each block and coefficient table),
# progressive 341; the rest is room for arithmetic coding.
JPEG_RATIO = 1024
SMALL = 2**23  # pixels; an image up to this size never waits. 16 threads have 2**27 at most
AT_ONCE = 2**27  # pixels of larger images that threads decode at the same time, about 1.5 GB


class Unreadable(Exception):
    """The bytes of one example are not an image. `reason` is the cause, in one line."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Budget:
    """A limit on the pixels that all threads of the process decode at the same time."""

    def __init__(self, total: int):
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image of `pixels` pixels. Small images never wait."""
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
    """Raises Unreadable if an image has too many pixels."""
    if height * width > PIXELS:
        raise Unreadable(f"{width}x{height} pixels are more than the limit of {PIXELS}")


def check_jpeg(data: bytes, height: int, width: int) -> None:
    """Raises Unreadable if a JPEG claims more pixels than its bytes can hold, or has too many
    scans."""
    pixels = height * width
    if pixels > max(2**20, JPEG_RATIO * len(data)):
        raise Unreadable(f"its {len(data)} bytes cannot hold {width}x{height} pixels")
    check_scans(data, height, width)


def check_scans(data: bytes, height: int, width: int, parts: int = 1) -> None:
    """Raises Unreadable if a JPEG has so many scans that decoding takes too long.

    The decoder visits all pixels again in each scan.

    Args:
      data: the encoded image.
      height: height in pixels.
      width: width in pixels.
      parts: number of separate JPEGs in the data. A TIFF stores each strip or tile as one.
    """
    scans = jpeg.count_scans(data) / parts  # coded data never has this marker
    if scans > MOST_SCANS or (scans > SCANS and scans * height * width > SCANNED):
        raise Unreadable(f"{scans:.0f} scans of {width}x{height} pixels take too long to decode")


@functools.cache
def silence_tiff() -> None:
    """Turns off the messages of libtiff with libtiff's own switch.

    libtiff writes about every damaged file to stderr, and bypasses Python. Builds of Pillow that
    hide the switch keep these lines.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(Image.core.__file__)  # it is linked with libtiff
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            switch = getattr(library, name)
            switch.argtypes = [ctypes.c_void_p]
            switch.restype = ctypes.c_void_p
            switch(None)
