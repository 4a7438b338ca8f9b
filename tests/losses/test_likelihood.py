"""Likelihoods of pixels and the KL of a VAE, against SciPy and numerical integrals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jssl.losses import likelihood

VALUES = np.arange(256.0)
CASES = [(0.0, 0.0), (0.3, -2.0), (-1.2, -4.0), (1.5, -1.0), (0.1, -6.5)]  # mean, log scale
logistic = jax.jit(likelihood.discretized_logistic)


def of_all_values(mean, log_scale):
    """log P of each value from 0 to 255, [256]."""
    shape = (1, 16, 16, 1)
    pixels = np.float32(VALUES.reshape(shape))
    log_p = logistic(pixels, jnp.full(shape, mean), jnp.full(shape, log_scale))
    return np.asarray(log_p, np.float64).ravel()


@pytest.mark.parametrize(("mean", "log_scale"), CASES)
def test_the_probabilities_of_256_values_sum_to_one(mean, log_scale):
    log_p = of_all_values(mean, log_scale)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=2e-5)


@pytest.mark.parametrize(("mean", "log_scale"), CASES)
def test_a_bin_is_the_difference_of_the_distribution_function(mean, log_scale):
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    cdf = stats.logistic(mean, np.exp(log_scale)).cdf
    sf = stats.logistic(mean, np.exp(log_scale)).sf
    below = edges[1:] < mean  # the difference that does not cancel
    p = np.where(below, np.diff(cdf(edges)), -np.diff(sf(edges)))
    seen = p > 1e-30
    ours = of_all_values(mean, log_scale)
    np.testing.assert_allclose(ours[seen], np.log(p[seen]), rtol=2e-4, atol=2e-4)
    assert np.isfinite(ours).all()


def test_scales_and_gradients_stay_finite():
    shape = (1, 1, 1, 1)

    def loss(mean, log_scale, pixel):
        return likelihood.discretized_logistic(jnp.full(shape, pixel), mean, log_scale).sum()

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    for pixel in (0.0, 128.0, 255.0):
        for log_scale in (-30.0, -7.0, 5.0):
            value, slopes = gradient(jnp.full(shape, -0.9), jnp.full(shape, log_scale), pixel)
            assert np.isfinite([value, *np.ravel(slopes)]).all(), (pixel, log_scale)


def test_the_gaussian_is_a_density_of_pixels():
    """Its integral over 0..256 is 1, and its mean over the noise is SciPy's."""
    shape = (1, 64, 64, 1)
    mean, log_scale = -0.2, -1.5
    call = jax.jit(functools.partial(likelihood.dequantized_gaussian, jax.random.key(0)))

    def log_p(pixel):
        return np.asarray(
            call(jnp.full(shape, pixel), jnp.full(shape, mean), jnp.full(shape, log_scale)),
            np.float64,
        )

    p = stats.norm(128 * (mean + 1), 128 * np.exp(log_scale))
    total = integrate.quad(p.pdf, 0, 256)[0]
    np.testing.assert_allclose(sum(np.exp(log_p(v)).mean() for v in VALUES), total, rtol=2e-3)
    expected = integrate.quad(p.logpdf, 60, 61)[0]
    np.testing.assert_allclose(log_p(60.0).mean(), expected, rtol=1e-3)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -2.0), (-0.3, 1.2)])
def test_kl_equals_its_integral(mean, log_variance):
    q = stats.norm(mean, np.exp(log_variance / 2))

    def integrand(z):
        return q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z))

    expected = integrate.quad(integrand, mean - 30, mean + 30, points=[mean])[0]
    kl = likelihood.kl_standard_normal(jnp.full(3, mean), jnp.full(3, log_variance))
    np.testing.assert_allclose(kl, np.full(3, expected), rtol=1e-5, atol=1e-6)
