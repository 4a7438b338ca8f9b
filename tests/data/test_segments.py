"""Segments of rows of joined documents, against a look-up of each token."""

import numpy as np

from jssl.data.text.segments import segments


def test_segments_equal_a_look_up_of_each_token():
    rng = np.random.default_rng(0)
    for length in (3, 16, 40):
        stops = np.cumsum(rng.integers(1, 30, 50))
        starts = rng.permutation(stops[-1] // length) * length
        first, found = segments(stops, starts, length)
        document = np.searchsorted(stops, starts[:, None] + np.arange(length), side="right")
        np.testing.assert_array_equal(first, document[:, 0])
        np.testing.assert_array_equal(found, document - document[:, :1] + 1)
        assert found.dtype == np.int32
