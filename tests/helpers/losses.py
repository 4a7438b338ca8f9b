"""References of losses, in NumPy, and comparisons with them."""

import functools

import jax
import numpy as np


def slope(function, x, direction, h=1e-5):
    """The derivative of a NumPy function at x along a direction."""
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def close(found, wanted, rtol=1e-5, atol=0.0):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


@functools.cache
def value_and_grads(function, count):
    """The function and its gradients of the first arguments; jitted, once for each function."""
    return jax.jit(jax.value_and_grad(function, tuple(range(count))))


def agree(ours, reference, *arrays, given=()):
    """Our value and our gradient of each argument along random directions are the reference's.

    `given` are further arguments of ours, numbers; a function at module level is compiled once for
    all of them.
    """
    rng = np.random.default_rng(0)
    both = value_and_grads(ours, len(arrays))
    value, grads = both(*(np.float32(array) for array in arrays), *given)
    close(value, reference(*arrays), 2e-5)
    for n, grad in enumerate(grads):

        def only(x, n=n):
            return reference(*arrays[:n], x, *arrays[n + 1 :])

        for direction in rng.normal(size=(3, *arrays[n].shape)):
            parts = np.asarray(grad) * direction
            rounding = 1e-5 * np.abs(parts).sum()  # the parts cancel, their rounding does not
            close(parts.sum(), slope(only, arrays[n], direction), 1e-4, rounding)


def reference_sinkhorn(scores, epsilon, iterations):
    """Appendix A.1 of SwAV by rows and columns: equal prototypes, then equal samples."""
    q = np.exp((scores - scores.max()) / epsilon)
    for _ in range(iterations):
        for column in q.T:
            column /= column.sum() * q.shape[1]
        for row in q:
            row /= row.sum() * q.shape[0]
    return np.array([row / row.sum() for row in q])
