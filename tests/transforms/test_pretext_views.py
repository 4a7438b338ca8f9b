"""What pretext tasks do to images, against NumPy written from the papers.

Most images have a pixel value of their own at each place, so a pixel tells where it came from.
"""

import itertools
from functools import partial

import jax
import numpy as np
from conftest import make_mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.ops import patchify
from jssl.transforms import permutations, pretext

RNG = jax.random.key(3)
B = 40


def numbered(batch, side, channels=1):
    """Images whose pixels are 0, 1, 2, ... in reading order: float32 [B, side, side, C]."""
    image = np.arange(side * side * channels, dtype=np.float32).reshape(1, side, side, channels)
    return np.repeat(image, batch, axis=0)


def test_rotations_are_exact_and_adjacent():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), np.uint8)
    found = np.asarray(jax.jit(pretext.rotations)(images))
    assert found.shape == (12, 5, 5, 3) and found.dtype == np.uint8
    for i, k in itertools.product(range(3), range(4)):
        wanted = images[i]
        for _ in range(k):  # by a quarter, counterclockwise: row r of the result is column -r
            wanted = wanted.transpose(1, 0, 2)[::-1]
        np.testing.assert_array_equal(found[4 * i + k], wanted)


def test_tiles_lie_at_random_places_of_their_cells():
    side, grid, tile = 26, 3, 6  # cells of 8 pixels; 2 pixels are left over
    images = numbered(B, side, 2)
    cut = jax.jit(partial(pretext.random_tiles, grid=grid, tile=tile))
    tiles = np.asarray(cut(RNG, images))
    assert tiles.shape == (B, 9, tile, tile, 2)
    corners = []
    for image, of_image in zip(images, tiles, strict=True):
        for place, found in enumerate(of_image):
            row, column = divmod(int(found[0, 0, 0]) // 2, side)
            np.testing.assert_array_equal(found, image[row : row + tile, column : column + tile])
            corners.append((row - place // grid * 8, column - place % grid * 8))
    assert {x for corner in corners for x in corner} == {0, 1, 2}
    assert len(set(corners)) == 9, "rows and columns are drawn by themselves"
    first = np.array(corners).reshape(B, 9, 2)
    assert len(np.unique(first[:, 0], axis=0)) > 1, "each image has its own places"
    assert len(np.unique(first[0], axis=0)) > 1, "each tile has its own place"


def test_each_channel_of_a_tile_has_mean_0_and_deviation_1():
    tiles = np.random.default_rng(0).normal(3, 5, (2, 4, 6, 6, 3)).astype(np.float32)
    tiles[0, 0, :, :, 1] = 0.5
    found = np.asarray(jax.jit(pretext.normalize_tiles)(tiles))
    wanted = np.zeros_like(tiles, np.float64)
    for b, t, c in itertools.product(range(2), range(4), range(3)):
        x = tiles[b, t, :, :, c].astype(np.float64)
        wanted[b, t, :, :, c] = (x - x.mean()) / np.sqrt(x.var() + 1e-4)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(found[0, 0, :, :, 1]).max() < 1e-4, "a tile of one color stays finite"


def test_tiles_are_taken_and_joined():
    image = numbered(2, 6, 2)
    tiles = np.asarray(patchify(image, 2)).reshape(2, 9, 2, 2, 2)
    np.testing.assert_array_equal(pretext.join_tiles(tiles), image)
    order = np.array([[8, 0, 1, 2, 3, 4, 5, 6, 7], np.arange(9)], np.int32)
    found = np.asarray(pretext.take_tiles(tiles, order))
    for b, j in itertools.product(range(2), range(9)):
        np.testing.assert_array_equal(found[b, j], tiles[b, order[b, j]])


def test_one_channel_of_each_tile_stays():
    tiles = np.random.default_rng(0).normal(size=(B, 4, 8, 8, 3)).astype(np.float32)
    tiles *= np.float32([1, 10, 100])
    found = np.asarray(jax.jit(pretext.drop_colors)(RNG, tiles))
    stays = (found == tiles).all(axis=(2, 3))
    np.testing.assert_array_equal(stays.sum(-1), 1)
    assert set(stays.argmax(-1).ravel()) == {0, 1, 2}
    assert (stays.argmax(-1) != stays.argmax(-1)[:, :1]).any(), "each tile has its own channel"
    deviation = tiles.std(axis=(2, 3)).max(-1, where=stays, initial=0)
    noise = found.std(axis=(2, 3)) / deviation[..., None]
    np.testing.assert_allclose(noise[~stays], 0.01, rtol=0.5)
    np.testing.assert_allclose(noise[~stays].mean(), 0.01, rtol=0.05)


def test_green_and_magenta_become_gray():
    """Section 3.1 of Doersch et al.: B = I - a^T a / (a a^T), a = [-1, 2, -1]."""
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype(np.float32)
    a = np.array([[-1.0, 2.0, -1.0]])
    wanted = images.astype(np.float64) @ (np.eye(3) - a.T @ a / (a @ a.T))
    np.testing.assert_allclose(pretext.project_colors(images), wanted, atol=1e-6)


def test_the_second_window_is_shifted_by_the_offset():
    """What the first window shows of it is known exactly: a copy that follows the offset."""
    side, window, shift = 12, 7, 3
    images = numbered(400, side)
    draw = jax.jit(partial(pretext.shifted_windows, window=window, max_shift=shift))
    first, second, offset = jax.device_get(draw(RNG, images))
    seen = np.asarray(jax.jit(pretext.seen_part, static_argnums=1)(offset, window))
    assert set(map(tuple, offset)) == set(itertools.product(range(-shift, shift + 1), repeat=2))
    places = set()
    for image, a, b, (dy, dx), known in zip(images, first, second, offset, seen, strict=True):
        y, x = divmod(int(a[0, 0, 0]), side)
        places |= {y, x}
        assert min(y, x, y + dy, x + dx) >= 0
        np.testing.assert_array_equal(a, image[y : y + window, x : x + window])
        np.testing.assert_array_equal(b, image[y + dy : y + dy + window, x + dx : x + dx + window])
        np.testing.assert_array_equal(known, np.isin(b[..., 0], a))
        for i, j in zip(*np.nonzero(known), strict=True):
            assert b[i, j, 0] == a[i + dy, j + dx, 0]
    assert places == set(range(side - window + 1))


def distances(chosen):
    """Hamming distances of all pairs."""
    return [int((a != b).sum()) for a, b in itertools.combinations(chosen, 2)]


def test_permutations_are_far_apart():
    chosen = permutations.distant_permutations(9, 100)
    np.testing.assert_array_equal(np.sort(chosen, axis=1), np.tile(np.arange(9), (100, 1)))
    assert min(distances(chosen)) >= 6
    drawn = [np.random.default_rng(i).permutation(9) for i in range(100)]
    assert min(distances(drawn)) < 5, "random ones are not"
    permutations.distant_permutations.cache_clear()
    np.testing.assert_array_equal(permutations.distant_permutations(9, 100), chosen)
    every = permutations.distant_permutations(4, 24)
    assert set(map(tuple, every)) == set(itertools.permutations(range(4)))


def test_the_next_permutation_is_the_farthest():
    """The greedy rule, step by step: largest least distance, then largest mean distance."""
    chosen = [tuple(map(int, row)) for row in permutations.distant_permutations(4, 9)]
    for n in range(1, 9):

        def key(p, before=chosen[:n]):
            away = [sum(a != b for a, b in zip(p, q, strict=True)) for q in before]
            return min(away), sum(away)

        assert key(chosen[n]) == max(map(key, itertools.permutations(range(4))))


def test_devices_keep_their_images():
    """A batch that is split over eight devices: nothing is sent (law 4 compares the numbers)."""

    def all_of_them(images):
        tiles = pretext.random_tiles(RNG, images, 3, 3)
        order = jax.numpy.argsort(jax.random.uniform(RNG, (16, 9)), axis=1)
        shuffled = pretext.take_tiles(pretext.normalize_tiles(tiles), order)
        dropped = pretext.drop_colors(RNG, shuffled)
        windows = pretext.shifted_windows(RNG, images, 7, 3)
        return pretext.rotations(images), pretext.join_tiles(dropped), windows

    rows = NamedSharding(make_mesh(8), P(("data",)))
    images = jax.ShapeDtypeStruct((16, 12, 12, 3), np.float32)
    split = jax.jit(all_of_them, in_shardings=rows, out_shardings=rows)
    text = split.lower(images).compile().as_text()
    for name in ("all-gather", "all-reduce", "collective-permute", "all-to-all"):
        assert name not in text
