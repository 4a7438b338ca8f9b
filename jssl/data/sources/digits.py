"""Scattered digits: a small labeled image set without a download, equal on every machine.

Each image shows one of scikit-learn's 1,797 scanned 8x8 digits at a random place, in a random size
and color, on a plain background of another random color with a little noise. Place, size, color and
polarity (dark on light or light on dark) are independent of the label. So neighbors in pixel space
are poor neighbors, and an encoder has to learn to ignore these nuisances.

The background is plain on purpose: a texture would distinguish two images without their digit,
which is a shortcut for a contrastive loss (Robinson et al. 2021, "Can contrastive learning avoid
shortcut solutions?").

Scans: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (CC BY 4.0), as `sklearn.datasets.load_digits` ships its test part.
"""

import functools
import gzip
import importlib.util
import pathlib
from typing import Any

import numpy as np

from jssl.config import ConfigError

SEED = 1797
RENDERINGS = {"train": 8, "test": 4}  # images of each scan, each with its own nuisances
CANVAS = 32  # px, height and width of an image
SIDE = (12, 24)  # px, smallest and largest side of the square that holds the 8x8 scan
CONTRAST = 72  # gray levels of 255, smallest luma difference between digit and background
NOISE = 8  # gray levels, largest absolute value of the uniform noise on every channel


@functools.cache
def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of one split, in a fixed order that mixes the labels.

    Args:
      split: "train" (1,437 scans, 8 images each) or "test" (the other 360 scans, 4 each).

    Returns:
      images uint8 [N, 32, 32, 3] and labels int32 [N]; N is 11,496 or 1,440. Image i shows scan i
      modulo the number of scans in the split.

    Raises:
      UserError: `split` is neither of the two.
    """
    if split not in RENDERINGS:
        raise ConfigError(
            "config.data.split", split, "not a split of digits", "try 'train' or 'test'"
        )
    scans, targets = scanned()
    rows = scan_rows(split, targets)
    scans = scans[rows].reshape(-1, 8, 8).astype(np.int32)
    rng = stream(1 + list(RENDERINGS).index(split))
    times = RENDERINGS[split]
    images = np.concatenate([render(rng, scans) for _ in range(times)])
    labels = np.tile(targets[rows].astype(np.int32), times)
    images.flags.writeable = False  # the next caller gets the same arrays
    labels.flags.writeable = False
    return images, labels


def scanned() -> tuple[np.ndarray, np.ndarray]:
    """Returns the scans, float64 [1797, 64] in 0..16, and their digits, int64 [1797].

    Reads scikit-learn's file directly, because importing the package takes two seconds. If a
    release has moved the file, the package is imported.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None, "scikit-learn is a dependency"
    file = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        arrays: Any = load_digits(return_X_y=True)
        return arrays
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def scan_rows(split: str, targets: np.ndarray) -> np.ndarray:
    """Returns the rows of `load_digits` in a split, ascending. Every fifth of a digit is test."""
    order = stream(0).permutation(len(targets))
    by_digit = order[np.argsort(targets[order], kind="stable")]
    test = np.sort(by_digit[::5])
    return test if split == "test" else np.setdiff1d(order, test)


def stream(number: int) -> np.random.RandomState:
    """Returns a generator that no NumPy release changes: RandomState is frozen (NEP 19)."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([SEED, number])))


def render(rng: np.random.RandomState, scans: np.ndarray) -> np.ndarray:
    """Draws one image of each scan.

    All arithmetic is on integers, hence exact and the same on every platform.

    Args:
      rng: random numbers; the order of the draws is fixed.
      scans: int32 [B, 8, 8] in 0..16.

    Returns:
      uint8 [B, 32, 32, 3].
    """
    n = len(scans)
    side = integers(rng, SIDE[0], SIDE[1], n)
    top, left = (integers(rng, 0, CANVAS, n) % (CANVAS - side + 1) for _ in range(2))
    ink = enlarge(scans, side, top, left).astype(np.uint16)[..., None]
    digit, ground = (color.astype(np.uint16)[:, None, None, :] for color in colors(rng, n))
    clean = (ink * digit + (256 - ink) * ground + 128) >> 8  # at most 256 * 255 + 128
    image = integers(rng, -NOISE, NOISE, clean.shape)
    image += clean
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def enlarge(scans: np.ndarray, side: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Resizes each scan (bilinear, taps in 1/16ths) to its own square on the canvas.

    Args:
      scans: int32 [B, 8, 8] in 0..16.
      side: int32 [B], the side of each square, in pixels.
      top: int32 [B], the first row of each square.
      left: int32 [B], the first column of each square.

    Returns:
      The ink, int32 [B, 32, 32] in 0..256: 256 is digit, 0 is background.
    """
    padded = np.pad(scans, ((0, 0), (1, 2), (1, 2)))  # blank paper around the scan
    rows = weights(side, top)
    columns = weights(side, left)
    # A matrix product of float32 is fast, and exact for integers below 2**24.
    ink = rows @ padded.astype(np.float32) @ columns.mT
    return ink.astype(np.int32) >> 4


def weights(side: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Returns the weights of a padded scan's 11 pixels for each pixel of the canvas.

    float32 [B, 32, 11], integers whose sum over a scan is 16.
    """
    pixel = 2 * (np.arange(CANVAS, dtype=np.int32) - start[:, None]) + 1  # half px from the edge
    position = np.clip(pixel * 64 // side[:, None] + 8, 0, 9 * 16)  # 1/16 of a scan's pixel
    distance = np.abs(16 * np.arange(11, dtype=np.int32) - position[..., None])
    return np.maximum(16 - distance, 0).astype(np.float32)


def colors(rng: np.random.RandomState, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws digit and background colors, int32 [B, 3] in 0..255. Their luma differs by CONTRAST."""
    pairs = integers(rng, 0, 255, (n, 64, 2, 3))
    luma = (pairs @ np.array([77, 150, 29], np.int32)) >> 8  # ITU-R BT.601, in 1/256
    first = np.argmax(abs(luma[..., 0] - luma[..., 1]) >= CONTRAST, axis=1)  # of 64 candidates
    pair = pairs[np.arange(n), first]
    return pair[:, 0], pair[:, 1]


def integers(
    rng: np.random.RandomState, low: int, high: int, shape: int | tuple[int, ...]
) -> np.ndarray:
    """Draws uniform int32 in low..high, both included. (The default dtype varies by platform.)"""
    return rng.randint(low, high + 1, shape, dtype=np.int32)
