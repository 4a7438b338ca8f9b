"""Scattered digits: the same bytes everywhere, no scan in both splits, not solvable in pixels."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jssl.config import UserError
from jssl.data.sources import digits

# Pinned: every run on these images is comparable with every other one, on any machine. The
# rendering is integer arithmetic on frozen random streams, so another NumPy changes nothing.
SHA256 = {
    "train": "bfb8b522e899f8b69cbcb1dc5b5366519348f01901a329f8538723a283312d83",
    "test": "999553b2b5dc56156358e3ebd2ac8e4a3399649a69d6d4a3de8d990431046dec",
}
SCANS = {"train": 1437, "test": 360}
IMAGES = {"train": 11496, "test": 1440}


@pytest.fixture(scope="module")
def data():
    return {split: digits.load(split) for split in SCANS}


@pytest.mark.parametrize("split", SCANS)
def test_shapes_and_types(data, split):
    images, labels = data[split]
    assert images.shape == (IMAGES[split], 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (IMAGES[split],) and labels.dtype == np.int32


@pytest.mark.parametrize("split", SCANS)
def test_bytes_never_change(data, split):
    assert hashlib.sha256(data[split][0].tobytes()).hexdigest() == SHA256[split]


def test_second_load_is_equal(data):
    for one, other in zip(data["test"], digits.load("test"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_scan_is_in_both_splits():
    scans, targets = load_digits(return_X_y=True)
    rows = {split: digits.scan_rows(split, targets) for split in SCANS}
    assert {split: len(set(r)) for split, r in rows.items()} == SCANS
    assert not set(rows["train"]) & set(rows["test"])
    train, test = ({scans[i].tobytes() for i in rows[split]} for split in SCANS)
    assert not train & test  # nor is one scan there twice, under two row numbers


@pytest.mark.parametrize("split", SCANS)
def test_labels_are_balanced_and_mixed(data, split):
    labels = data[split][1]
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 0.95 * counts.mean() and counts.max() < 1.05 * counts.mean()
    assert np.bincount(labels[:100], minlength=10).min() >= 5  # not sorted by label


@pytest.mark.parametrize("split", SCANS)
def test_image_shows_the_scan_of_its_label(data, split):
    """Cut the digit out by what differs from the border's color: it is the scan, enlarged."""
    scans, targets = load_digits(return_X_y=True)
    rows = digits.scan_rows(split, targets)
    images, labels = data[split]
    np.testing.assert_array_equal(labels, np.resize(targets[rows], len(labels)))
    candidates = np.stack([tight(scan.reshape(8, 8) / 16) for scan in scans[rows]])
    shown = range(0, len(images), len(images) // 60)
    found = [best_match(tight(ink_of(images[i])), candidates) for i in shown]
    assert np.mean(found == np.array(shown) % len(rows)) > 0.5  # by chance 1 / len(rows)
    assert np.mean(targets[rows][found] == labels[shown]) > 0.9


def ink_of(image):
    """[H, W] in 0..1: distance from the background, which is the median color of the border."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)
    distance = np.linalg.norm(image - np.median(border, axis=0), axis=2)
    return distance / np.percentile(distance, 99)


def tight(ink):
    """The part with ink, resized to [12, 12]."""
    y, x = np.nonzero(ink > 0.3)
    box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    picture = Image.fromarray(ink.astype(np.float32))
    return np.asarray(picture.resize((12, 12), Image.Resampling.BILINEAR, box))


def best_match(ink, candidates):
    """Which of the candidates [N, 12, 12] correlates most with the ink [12, 12]."""

    def center(x):
        return x.reshape(-1, 144) - x.reshape(-1, 144).mean(axis=1, keepdims=True)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return np.argmax(unit(center(candidates)) @ unit(center(ink))[0])


@pytest.mark.parametrize(("side", "top", "left"), [(8, 0, 0), (12, 20, 3), (17, 5, 15), (24, 8, 8)])
def test_enlarge_is_bilinear(side, top, left):
    """Against np.interp along each axis, on blank paper: pixel centers, as Pillow and OpenCV."""
    scan = load_digits().images[7].astype(np.int32)

    def at(start):
        return (np.arange(32) + 0.5 - start) * 8 / side - 0.5

    paper = np.pad(scan, 1)
    rows = np.stack([np.interp(at(top), np.arange(-1, 9), c, 0, 0) for c in paper.T], 1)
    expected = np.stack([np.interp(at(left), np.arange(-1, 9), r, 0, 0) for r in rows])
    place = (np.array([value], np.int32) for value in (side, top, left))
    ink = digits.enlarge(scan[None], *place)[0]
    assert ink.min() >= 0 and ink.max() <= 256
    # Taps are in 1/16 of a scan's pixel; rounding down moves each axis by 16 / 256 at most.
    assert np.abs(ink / 16 - expected).max() < 2.1


def test_digit_is_visible_and_moves(data):
    """In every image digit and background differ in luma; the digit is all over the canvas."""
    images = data["test"][0]
    luma = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    low, high = np.percentile(luma, [2, 98], axis=(1, 2))
    assert (high - low).min() > 40
    ink = np.mean([ink_of(image) > 0.5 for image in images], axis=0)
    assert 0.02 < ink.mean() < 0.3 and ink[8:24, 8:24].min() > 0.05


def test_digit_is_as_often_dark_as_light(data):
    images = data["test"][0]
    luma = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    median = np.median(luma, axis=(1, 2))  # of the background, for it covers more than half
    light = np.mean(luma.max(axis=(1, 2)) - median > median - luma.min(axis=(1, 2)))
    assert 0.4 < light < 0.6


@pytest.mark.parametrize("k", [1, 20, 200])
def test_pixels_are_poor_features(data, k):
    """Weighted kNN (Wu et al. 2018, T = 0.1) on raw pixels; there is something left to learn."""
    bank, query = (data[split][0].reshape(-1, 3072) / np.float32(255) for split in SCANS)
    bank, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, query[::2]))
    similarity = query @ bank.T
    near = np.argpartition(-similarity, k, axis=1)[:, :k]
    weight = np.exp(np.take_along_axis(similarity, near, axis=1) / 0.1)
    votes = np.eye(10)[data["train"][1][near]] * weight[..., None]
    accuracy = np.mean(votes.sum(axis=1).argmax(axis=1) == data["test"][1][::2])
    assert accuracy < 0.25


def test_unknown_split_names_the_key():
    with pytest.raises(UserError, match=r"data\.split='valid': .*'train' or 'test'"):
        digits.load("valid")
