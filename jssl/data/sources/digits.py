"""Scattered digits: a small labelled image set that needs no download, the same on every machine.

Each image shows one of scikit-learn's 1,797 scanned 8x8 digits at a random place, in a random size
and colour, on a plain background of another random colour with a little noise. Place, size, colour
and polarity (dark on light or light on dark) say nothing of the label, so that neighbours in pixel
space are poor neighbours, and an encoder has to learn to ignore them.

The background stays plain on purpose: a texture would tell two images apart without their digit,
which is a shortcut for a contrastive loss (Robinson et al. 2021, "Can contrastive learning avoid
shortcut solutions?").

Scans: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (CC BY 4.0), as `sklearn.datasets.load_digits` ships its test part.
"""

import functools
import gzip
import importlib.util
import pathlib

import numpy as np

from jssl.config import UserError

SEED = 1797
RENDERINGS = {"train": 8, "test": 4}  # images of each scan, each with its own nuisance
CANVAS = 32  # px, height and width of an image
SIDE = (12, 24)  # px, smallest and largest side of the square that holds the 8x8 scan
CONTRAST = 72  # grey levels of 255, least luma difference between digit and background
NOISE = 8  # grey levels, largest absolute value of the uniform noise on every channel


@functools.cache
def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one split, in a fixed order that mixes the labels.

    Args:
        split: "train" (1,437 scans, 8 images each) or "test" (the other 360 scans, 4 each).

    Returns:
        images uint8 [N, 32, 32, 3] and labels int32 [N]; N is 11,496 or 1,440. Image i shows
        scan i modulo the number of scans in the split.

    Raises:
        UserError: `split` is neither of the two.
    """
    if split not in RENDERINGS:
        raise UserError(f"data.split={split!r} is not a split of digits; try 'train' or 'test'")
    scans, targets = scanned()
    rows = scan_rows(split, targets)
    scans = scans[rows].reshape(-1, 8, 8).astype(np.int32)
    rng = stream(1 + list(RENDERINGS).index(split))
    times = RENDERINGS[split]
    images = np.concatenate([render(rng, scans) for _ in range(times)])
    labels = np.tile(targets[rows].astype(np.int32), times)
    images.flags.writeable = labels.flags.writeable = False  # the next caller gets the same arrays
    return images, labels


def scanned() -> tuple[np.ndarray, np.ndarray]:
    """The scans, float64 [1797, 64] in 0..16, and their digits, int64 [1797].

    The file is read from where scikit-learn has it, because importing that package takes two
    seconds; where a release has moved it, the package is asked.
    """
    package = importlib.util.find_spec("sklearn")
    file = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def scan_rows(split: str, targets: np.ndarray) -> np.ndarray:
    """Which rows of `load_digits` a split shows, ascending: every fifth of each digit is test."""
    order = stream(0).permutation(len(targets))
    by_digit = order[np.argsort(targets[order], kind="stable")]
    test = np.sort(by_digit[::5])
    return test if split == "test" else np.setdiff1d(order, test)


def stream(number: int) -> np.random.RandomState:
    """Random numbers that no NumPy release changes: RandomState's streams are frozen (NEP 19)."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([SEED, number])))


def render(rng: np.random.RandomState, scans: np.ndarray) -> np.ndarray:
    """One image of each scan: int32 [B, 8, 8] in 0..16 -> uint8 [B, 32, 32, 3].

    All arithmetic is on integers, hence exact and the same on every platform.
    """
    n = len(scans)
    side = integers(rng, SIDE[0], SIDE[1], n)
    top, left = (integers(rng, 0, CANVAS, n) % (CANVAS - side + 1) for _ in range(2))
    ink = enlarge(scans, side, top, left)[..., None]
    digit, ground = (colour[:, None, None, :] for colour in colours(rng, n))
    clean = (ink * digit + (256 - ink) * ground + 128) >> 8
    noise = integers(rng, -NOISE, NOISE, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def enlarge(scans: np.ndarray, side: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Bilinear resize of each scan to its own square on the canvas, by taps in 1/16ths.

    Args: scans int32 [B, 8, 8] in 0..16; side, top and left int32 [B] in px.
    Returns the ink int32 [B, 32, 32] in 0..256: 256 is digit, 0 is background.
    """
    padded = np.pad(scans, ((0, 0), (1, 2), (1, 2)))  # blank paper around the scan
    image = np.arange(len(scans))[:, None, None]
    row, row_weight = taps(side, top)
    column, column_weight = taps(side, left)
    ink = 0
    for i in range(2):
        for j in range(2):
            tap = padded[image, (row + i)[:, :, None], (column + j)[:, None, :]]
            ink += row_weight[i][:, :, None] * column_weight[j][:, None, :] * tap
    return ink >> 4


def taps(side: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """First tap int32 [B, 32] in the padded scan, and both taps' weights, which sum to 16."""
    pixel = 2 * (np.arange(CANVAS, dtype=np.int32) - start[:, None]) + 1  # half px from the edge
    place = np.clip(pixel * 64 // side[:, None] + 8, 0, 9 * 16)  # 1/16 of a scan's pixel
    return place >> 4, (16 - place % 16, place % 16)


def colours(rng: np.random.RandomState, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Digit and background colours, int32 [B, 3] in 0..255, at least CONTRAST apart in luma."""
    pairs = integers(rng, 0, 255, (n, 64, 2, 3))
    luma = (pairs @ np.array([77, 150, 29], np.int32)) >> 8  # ITU-R BT.601, in 1/256
    first = np.argmax(abs(luma[..., 0] - luma[..., 1]) >= CONTRAST, axis=1)  # of 64 candidates
    chosen = pairs[np.arange(n), first]
    return chosen[:, 0], chosen[:, 1]


def integers(rng: np.random.RandomState, low: int, high: int, shape) -> np.ndarray:
    """Uniform int32 in low..high, both included. (The default type would vary by platform.)"""
    return rng.randint(low, high + 1, shape, dtype=np.int32)
