"""The number of the document of each token in rows of joined documents."""

import numpy as np


def segments(stops: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts the ends of documents in each row, which is faster than a look-up for each token.

    Args:
      stops: int64 [D], the end of each document in the joined text, strictly ascending.
      starts: int64 [n], the first position of each row.
      length: tokens of a row, L.

    Returns:
      The first document of each row, int64 [n], and int32 [n, L]: 1 in the first document of the
      row, 2 in the next one, and so on.
    """
    first = np.searchsorted(stops, starts, side="right")
    ends = np.searchsorted(stops, starts + length - 1, side="right") - first
    row = np.repeat(np.arange(len(starts)), ends)
    document = np.arange(len(row)) + np.repeat(first - (np.cumsum(ends) - ends), ends)
    segment = np.zeros((len(starts), length), np.int32)
    segment[:, 0] = 1
    segment[row, stops[document] - starts[row]] = 1
    return first, np.cumsum(segment, axis=1, out=segment)
