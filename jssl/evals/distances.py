"""Distances between two sets of features: how alike generated and real examples are.

Fréchet distance: Heusel et al. 2017 (arXiv 1706.08500), equation 6. Kernel distance: Binkowski et
al. 2018 (arXiv 1801.01401), section 3, unbiased, with the kernel (x y / D + 1)^3. Precision and
recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2, k = 3.

With the features of Inception v3 the first is FID and the second KID; with other features they are
not, and no figure of one space compares with that of another. All is computed in float64 on the
host.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]  # [N, D]
SUBSETS = 100  # of the kernel distance
SUBSET_SIZE = 1000
NEIGHBORS = 3  # of precision and recall
CHUNK = 1024  # rows whose distances are in memory at once


class Distances(NamedTuple):
    """How far generated features are from real ones; all fields are floats.

    Attributes:
      frechet: Fréchet distance of two Gaussians; 0: equal moments.
      kernel: unbiased squared kernel distance; about 0 for samples of one distribution.
      kernel_deviation: standard deviation of it over subsets.
      precision: share of the generated examples within the neighborhoods of the real ones.
      recall: share of the real examples within the neighborhoods of the generated ones.
    """

    frechet: float
    kernel: float
    kernel_deviation: float
    precision: float
    recall: float


def compare(generated: Features, real: Features, seed: int = 0) -> Distances:
    """Compares two sets of features, [N, D] and [M, D]; `seed` draws the subsets of `kernel`."""
    kernel, deviation = kernel_distance(generated, real, seed)
    return Distances(
        frechet_distance(generated, real),
        kernel,
        deviation,
        share_within(generated, real),
        share_within(real, generated),
    )


def frechet_distance(a: Features, b: Features) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the rows of a [N, D] and b [M, D].

    S are the unbiased covariances. The trace of the root is the sum of the roots of the eigenvalues
    of S_a^(1/2) S_b S_a^(1/2), which is symmetric.
    """
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = np.square(mean_a - mean_b).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def moments(x: Features) -> tuple[Features, Features]:
    """Mean [D] and unbiased covariance [D, D] of the rows of x [N, D], float64."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    centered = x - mean
    return mean, centered.T @ centered / (len(x) - 1)


def kernel_distance(a: Features, b: Features, seed: int = 0) -> tuple[float, float]:
    """Mean and deviation, over subsets, of the unbiased MMD^2 of rows of a [N, D] and b [M, D].

    There are `SUBSETS` subsets of `SUBSET_SIZE` rows, or of all rows if a set has fewer.
    """
    rng = np.random.default_rng(seed)
    size = min(SUBSET_SIZE, len(a), len(b))
    found = []
    for _ in range(SUBSETS):
        x, y = (s[rng.choice(len(s), size, replace=False)].astype(np.float64) for s in (a, b))
        found.append(unbiased_mmd(x, y))
    return float(np.mean(found)), float(np.std(found))


def unbiased_mmd(x: Features, y: Features) -> float:
    """The unbiased squared maximum mean discrepancy of as many rows of x and y, [n, D]."""
    n, dim = x.shape

    def kernel(p: Features, q: Features) -> Features:
        return (p @ q.T / dim + 1) ** 3

    def without_self(k: Features) -> float:
        return (k.sum() - np.trace(k)) / (n * (n - 1))

    within = without_self(kernel(x, x)) + without_self(kernel(y, y))
    return float(within - 2 * kernel(x, y).mean())


def share_within(points: Features, centers: Features, k: int = NEIGHBORS) -> float:
    """The share of the points [N, D] that lie within the ball of a center [M, D].

    The ball of a center reaches to its k-th nearest neighbor among the other centers. With
    generated points and real centers this is precision, the other way round recall.
    """
    points = points.astype(np.float64)
    centers = centers.astype(np.float64)
    radii = np.empty(len(centers))
    for start in range(0, len(centers), CHUNK):
        near = squared_distances(centers[start : start + CHUNK], centers)
        radii[start : start + CHUNK] = np.partition(near, k, axis=1)[:, k]  # itself is one of them
    inside = 0
    for start in range(0, len(points), CHUNK):
        distances = squared_distances(points[start : start + CHUNK], centers)
        inside += int((distances <= radii).any(axis=1).sum())
    return inside / len(points)


def squared_distances(a: Features, b: Features) -> Features:
    """Squared Euclidean distances [N, M] of the rows of a [N, D] and b [M, D]."""
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0)
