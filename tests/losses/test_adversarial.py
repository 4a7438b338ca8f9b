"""The hinge losses against the formulas of the papers in NumPy."""

import jax
import numpy as np

from jssl.losses import hinge_discriminator, hinge_generator

REAL = np.array([-3.0, 0.5, 1.0, 4.0], np.float32)
FAKE = np.array([-2.0, -1.0, 0.25], np.float32)


def test_hinge_losses():
    real = [max(0, 1 - x) for x in REAL]
    fake = [max(0, 1 + x) for x in FAKE]
    wanted = np.mean(real) + np.mean(fake)
    np.testing.assert_allclose(hinge_discriminator(REAL, FAKE), wanted, rtol=1e-6)
    np.testing.assert_allclose(hinge_generator(FAKE), 2.75 / 3, rtol=1e-6)


def test_a_score_beyond_the_margin_has_no_gradient():
    of_real, of_fake = map(np.asarray, jax.grad(hinge_discriminator, (0, 1))(REAL, FAKE))
    np.testing.assert_allclose(of_real[[0, 1, 3]], [-1 / 4, -1 / 4, 0])
    np.testing.assert_allclose(of_fake[[0, 2]], [0, 1 / 3])
    np.testing.assert_allclose(jax.grad(hinge_generator)(FAKE), -np.ones(3) / 3)
