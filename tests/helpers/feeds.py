"""A source of made-up images, and batches of it."""

import numpy as np

from jssl.data.sources import packed

BATCH = 16  # any number of devices up to 16 that is a power of two divides it


def example_source(n=50):
    """Ten by eight pixels, the first of which says which example it is."""
    images = np.random.RandomState(0).randint(0, 256, (n, 10, 8, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return packed.arrays(images, np.arange(n) % 7, "examples")


def assert_same(got, want):
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == want[key].dtype
        np.testing.assert_array_equal(np.asarray(got[key]), np.asarray(want[key]))
