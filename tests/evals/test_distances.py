"""Distances of two sets of features, against other formulas and known cases."""

import numpy as np
import pytest
import scipy.linalg

from jssl.evals import distances


def drawn(seed, n=400, dim=6, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).normal(size=(dim, dim))
    return (rng.normal(size=(n, dim)) @ mix * scale + shift).astype(np.float32)


def test_frechet_equals_the_formula_with_a_matrix_root():
    a, b = drawn(0), drawn(1, n=300, scale=1.7, shift=0.3)
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    wanted = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root)
    np.testing.assert_allclose(distances.frechet_distance(a, b), wanted, rtol=1e-5)
    np.testing.assert_allclose(distances.frechet_distance(a, a), 0, atol=1e-6)
    few = drawn(2, n=4)  # fewer rows than axes: a singular covariance
    assert distances.frechet_distance(few, b) > 0


def test_frechet_of_known_gaussians():
    """Of one axis: (m1 - m2)^2 + (s1 - s2)^2."""
    x = np.array([[-1.0], [1.0]])
    y = 3 * x + 5
    deviation = np.sqrt(2.0)
    wanted = 25 + (3 * deviation - deviation) ** 2
    np.testing.assert_allclose(distances.frechet_distance(x, y), wanted, rtol=1e-6)


def test_kernel_distance_is_unbiased_and_equals_a_loop():
    x, y = drawn(0, n=12), drawn(1, n=12, shift=0.5)

    def k(p, q):
        return (float(p @ q) / 6 + 1) ** 3

    n = len(x)
    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    across = sum(k(p, q) for p in x for q in y)
    wanted = within / (n * (n - 1)) - 2 * across / n**2
    np.testing.assert_allclose(distances.unbiased_mmd(x, y), wanted, rtol=1e-4)
    same, deviation = distances.kernel_distance(drawn(3, 2500), drawn(4, 2500))
    far, _ = distances.kernel_distance(drawn(3, 2500), drawn(4, 2500, shift=1.0))
    assert abs(same) < 3 * deviation < far


def test_precision_and_recall_tell_collapse_from_noise():
    real = drawn(0)
    collapsed = drawn(1)[:10].repeat(40, axis=0) + 1e-3 * drawn(2)
    wide = drawn(3, scale=4.0)
    found = distances.compare(collapsed, real)
    assert found.precision > 0.6 and found.recall < 0.1
    found = distances.compare(wide, real)
    assert found.precision < 0.5 and found.recall > 0.9


@pytest.mark.parametrize("chunk", [3, 1000])
def test_share_within_equals_a_loop(chunk, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", chunk)
    points, centers = drawn(0, n=20), drawn(1, n=15)
    radius = [sorted(np.linalg.norm(c - centers, axis=1))[3] for c in centers]
    inside = [
        any(np.linalg.norm(p - c) <= r for c, r in zip(centers, radius, strict=True))
        for p in points
    ]
    assert distances.share_within(points, centers) == np.mean(inside)
