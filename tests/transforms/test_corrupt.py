"""Noise and holes: the stated share and size, different for each image, and nothing else."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from jssl.config import UserError
from jssl.transforms import corrupt

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.2, 0.8, (6, 24, 24, 3)).astype(np.float32)


def noisy(noise, strength):
    return np.asarray(jax.jit(corrupt.add_noise, static_argnums=2)(KEY, IMAGES, noise, strength))


def test_gaussian_noise():
    added = noisy("gaussian", 0.2) - IMAGES
    assert abs(added.mean()) < 0.01
    np.testing.assert_allclose(added.std((1, 2, 3)), 0.2, rtol=0.1)
    assert abs(np.corrcoef(added.reshape(6, -1)) - np.eye(6)).max() < 0.1


def test_masking_noise():
    x = noisy("masking", 0.25)
    changed = x != IMAGES
    np.testing.assert_allclose(changed.mean((1, 2, 3)), 0.25, atol=0.05)
    assert (x[changed] == 0).all()
    assert len({row.tobytes() for row in changed}) == 6


def test_salt_and_pepper():
    x = noisy("salt_pepper", 0.4)
    changed = x != IMAGES
    np.testing.assert_allclose(changed.mean(), 0.4, atol=0.03)
    assert set(np.unique(x[changed])) == {0.0, 1.0}
    np.testing.assert_allclose(x[changed].mean(), 0.5, atol=0.05)
    np.testing.assert_array_equal(noisy("salt_pepper", 0.0), IMAGES)


def holes(mask, size, ratio, overlap=0, batch=40):
    draw = corrupt.hole_fn(mask, size, ratio, overlap)
    return np.asarray(jax.jit(draw, static_argnums=1)(KEY, batch))


def test_the_center_and_its_band_are_the_published_square():
    """128 pixels and a band of 4: pixels 36..91 are hidden, 32..95 predicted (train.lua)."""
    hole = holes("center", 128, 0.25, overlap=4, batch=2)
    weight = np.asarray(corrupt.band_weight(hole, 4, 10.0))
    expected = np.zeros((128, 128))
    expected[32:96, 32:96] = 10
    expected[36:92, 36:92] = 1
    np.testing.assert_array_equal(weight, np.stack([expected] * 2))
    np.testing.assert_array_equal(hole, weight == 1)


def test_blocks_cover_a_part_of_at_most_the_ratio():
    hole = holes("blocks", 32, 0.25)
    share = hole.mean((1, 2))
    assert (share <= 0.25).all() and share.min() > 0.01
    assert 0.12 < share.mean() and share.max() > 0.2
    assert len({row.tobytes() for row in hole}) == 40
    lone = [(h & ~ndimage.binary_opening(h, np.ones((3, 3)))).sum() for h in hole]
    assert sum(lone) == 0  # rectangles of 4 pixels or more at each side


def test_pixels_are_exactly_the_ratio():
    hole = holes("pixels", 16, 0.3, batch=400)
    np.testing.assert_array_equal(hole.sum((1, 2)), round(0.3 * 256))
    np.testing.assert_allclose(hole.mean(0), 0.3, atol=0.12)


def test_the_band_surrounds_any_hole():
    hole = holes("blocks", 32, 0.25, batch=5)
    weight = np.asarray(corrupt.band_weight(hole, 2, 10.0))
    near = np.stack([ndimage.binary_dilation(h, np.ones((5, 5))) for h in hole])
    np.testing.assert_array_equal(weight, np.where(hole, 1.0, np.where(near, 10.0, 0.0)))


@pytest.mark.parametrize(
    ("mask", "ratio", "overlap"), [("center", 0.01, 2), ("blocks", 0.001, 0), ("pixels", 1e-5, 0)]
)
def test_a_hole_without_pixels_is_refused(mask, ratio, overlap):
    with pytest.raises(UserError, match=f"^--config.mask_ratio={ratio}.* try 0.25"):
        corrupt.hole_fn(mask, 32, ratio, overlap)


def test_a_share_above_one_is_refused():
    with pytest.raises(UserError, match=r"^--config.noise_strength=1.5.*masking.* try 0.25"):
        corrupt.check_strength("masking", 1.5)
    corrupt.check_strength("gaussian", 1.5)
