"""Seconds of decoding a photo onto its canvas, for several shorter sides, in alternation.

python benchmarks/decode.py --sides 192 256

A photo of 500 x 375 pixels (ImageNet's mean) with the spectrum of natural images, as a JPEG of
quality 90. A side of 192 is what a canvas of 256 gave such a photo when it bounded the longer side.
"""

import argparse
import io
import json
import statistics
import time

import numpy as np
from PIL import Image

from jssl.data.canvas import canvas_of
from jssl.data.decode import Pixels


def photo(height: int = 375, width: int = 500, seed: int = 0) -> bytes:
    """A JPEG of noise whose amplitude falls with the frequency."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width)))
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)[:, None]
    spectrum /= np.maximum(np.hypot(across, down), 1 / width)
    waves = np.fft.irfft2(spectrum, s=(height, width))
    pixels = np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[192, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=100, help="in each round")
    args = parser.parse_args()
    content = photo()
    readers = {side: Pixels(side, (*canvas_of(side), 3)) for side in args.sides}
    times = {side: [] for side in args.sides}
    for _ in range(args.rounds):
        for side, read in readers.items():
            began = time.process_time()
            for _ in range(args.images):
                read(content)
            times[side].append((time.process_time() - began) / args.images * 1e3)
    for side, found in times.items():
        low, middle = min(found), statistics.median(found)
        print(json.dumps({"side": side, "ms_min": round(low, 3), "ms_median": round(middle, 3)}))


if __name__ == "__main__":
    main()
