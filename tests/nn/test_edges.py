"""Operations and losses where numbers are very small, very large, infinite or no numbers, against
PyTorch's (tests/golden/torch_edges.py made the numbers)."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT

from jssl import losses, ops
from jssl.nn import positions

FILE = ROOT / "tests" / "golden" / "torch_edges.json"
GOLDEN = json.loads(FILE.read_text())
LOSSES = {
    "barlow": lambda a, b: losses.barlow_twins(a, b, 5e-3),
    "vicreg": lambda a, b: losses.vicreg(a, b, 25.0, 25.0, 1.0)[0],
    "nt_xent": lambda a, b: losses.nt_xent(a, b, 0.1)[0],
    "cosine": losses.byol_loss,
    "smooth_l1": lambda a, b: losses.smooth_l1(a - b, 2.0).mean(),
    "soft_cross_entropy": lambda a, b: losses.soft_cross_entropy(a, jax.nn.softmax(b)),
}
# Compiled once for all cases, which have the same shapes.
LOSSES = {name: jax.jit(jax.value_and_grad(loss, (0, 1))) for name, loss in LOSSES.items()}
resized = jax.jit(positions.resized, static_argnums=1)


def array(x):
    return np.array(x, np.float32)


@jax.jit
def unit_rows(x):
    """Unit rows of x [2, 4], and the gradient of a weighted sum of them."""
    weight = np.arange(8.0).reshape(2, 4)
    gradient = jax.grad(lambda x: (ops.l2_normalize(x) * weight).sum())(x)
    return ops.l2_normalize(x), gradient


@pytest.mark.parametrize("case", GOLDEN["normalize"])
def test_unit_rows_are_torchs_normalize_at_every_scale(case):
    rows, gradient = unit_rows(array(case["input"]))
    np.testing.assert_allclose(rows, array(case["output"]), rtol=2e-6)
    wanted = array(case["gradients"][0])
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_unit_rows_where_torchs_overflow():
    """Beyond 1e19 torch's sum of squares is infinite and its rows are zero; ours stay unit rows."""
    rows, _ = unit_rows(array([[3e30, -4e30, 0, 0], [3e37, 0, 0, 0]]))
    np.testing.assert_allclose(rows, [[0.6, -0.8, 0, 0], [1, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["losses"], ids=lambda c: f"{c['loss']}-{c['spoiled']}")
def test_losses_are_torchs_at_the_edges(case):
    """Value and gradient, where they are finite; elsewhere both are infinite, or both NaN."""
    a, b = map(array, case["inputs"])
    value, gradients = LOSSES[case["loss"]](a, b)
    wanted = array(case["value"])
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=2e-6)
    for found, torchs in zip(gradients, map(array, case["gradients"]), strict=True):
        finite = np.isfinite(torchs)
        found = np.asarray(found)
        np.testing.assert_array_equal(np.isfinite(found).all(), finite.all())
        if finite.all():
            size = np.abs(torchs).max()
            np.testing.assert_allclose(found, torchs, rtol=1e-3, atol=1e-8 + 1e-5 * size)


@pytest.mark.parametrize("case", GOLDEN["bicubic"], ids=lambda c: len(c["resized"]))
def test_positions_of_a_smaller_crop_are_dinos(case):
    """interpolate_pos_encoding with torch's own bicubic interpolation."""
    found = resized(array(case["table"]), len(case["resized"]))
    np.testing.assert_allclose(found, array(case["resized"]), atol=1e-5)
