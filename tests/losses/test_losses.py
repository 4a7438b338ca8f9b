"""Losses and masks against NumPy references that are written from the papers' formulas, loops and
all; gradients by central differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.losses import slope

from jssl import losses, ops
from jssl.transforms import masking

nt_xent = jax.jit(losses.nt_xent)  # of any temperature: one program for each shape
nt_xent_grads = jax.jit(jax.grad(losses.nt_xent, (0, 1), has_aux=True))


def reference_nt_xent(z_a, z_b, temperature):
    """Equation 1 of SimCLR: z_{2k-1}, z_{2k} are the pair; mean of l(i, j) over both directions."""
    z = np.empty((2 * len(z_a), z_a.shape[1]))
    z[0::2], z[1::2] = z_a, z_b

    def sim(u, v):
        return u @ v / (np.linalg.norm(u) * np.linalg.norm(v))

    total = 0.0
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = [np.exp(sim(z[i], z[k]) / temperature) for k in range(len(z)) if k != i]
        total += -np.log(np.exp(sim(z[i], z[j]) / temperature) / sum(others))
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("batch", [2, 7])
def test_nt_xent_is_equation_1(temperature, batch):
    rng = np.random.default_rng(batch)
    z_a, z_b = rng.normal(size=(2, batch, 5)) * 3
    value, _ = nt_xent(np.float32(z_a), np.float32(z_b), temperature)
    np.testing.assert_allclose(value, reference_nt_xent(z_a, z_b, temperature), rtol=1e-5)


def test_nt_xent_gradient_of_both_views():
    rng = np.random.default_rng(0)
    z_a, z_b, direction = rng.normal(size=(3, 6, 5))
    grads, _ = nt_xent_grads(np.float32(z_a), np.float32(z_b), 0.3)
    along_a = slope(lambda a: reference_nt_xent(a, z_b, 0.3), z_a, direction)
    along_b = slope(lambda b: reference_nt_xent(z_a, b, 0.3), z_b, direction)
    np.testing.assert_allclose((np.asarray(grads[0]) * direction).sum(), along_a, rtol=1e-3)
    np.testing.assert_allclose((np.asarray(grads[1]) * direction).sum(), along_b, rtol=1e-3)


def test_nt_xent_of_bfloat16_is_computed_in_float32():
    z = np.random.default_rng(0).normal(size=(2, 8, 16)).astype(jnp.bfloat16)
    # XLA must round where the program says so.
    options = {"xla_allow_excess_precision": False}
    value, accuracy = jax.jit(losses.nt_xent, compiler_options=options)(*z, 0.1)
    assert value.dtype == accuracy.dtype == jnp.float32
    wide = np.float64(z)
    np.testing.assert_allclose(value, reference_nt_xent(*wide, 0.1), rtol=1e-5)


def test_nt_xent_accuracy():
    eye = np.eye(4, dtype=np.float32)
    assert float(nt_xent(eye, eye, 0.5)[1]) == 1.0
    assert float(nt_xent(eye, np.roll(eye, 1, axis=0), 0.5)[1]) == 0.0


def test_masked_mse_counts_hidden_patches_only():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 6))
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    total, count = 0.0, 0
    for b in range(3):
        for n in range(4):
            if mask[b, n]:
                total += np.mean((prediction[b, n] - target[b, n]) ** 2)
                count += 1
    value = jax.jit(losses.masked_mse)(*map(np.float32, (prediction, target, mask)))
    np.testing.assert_allclose(value, total / count, rtol=1e-6)


def test_norm_pix_is_the_reference_codes():
    x = np.random.default_rng(0).uniform(size=(2, 3, 12))
    found, mean, deviation = map(np.asarray, jax.jit(ops.normalize_patches)(np.float32(x)))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found * deviation + mean, x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("patches", "ratio"), [(196, 0.75), (64, 0.6), (16, 0.9)])
def test_random_keep_has_exactly_the_ratio_and_restores_the_order(patches, ratio):

    @jax.jit
    def draw():
        return masking.random_masking(jax.random.key(0), 50, patches, ratio)

    keep, mask, restore = map(np.asarray, draw())
    kept = int(patches * (1 - ratio))
    assert keep.shape == (50, kept)
    np.testing.assert_array_equal(mask.sum(1), patches - kept)
    for row in range(50):
        assert set(np.flatnonzero(mask[row] == 0)) == set(keep[row].tolist())
    tokens = np.concatenate([keep, np.full((50, patches - kept), -1)], axis=1)
    back = np.take_along_axis(tokens, restore, axis=1)
    visible = mask == 0
    np.testing.assert_array_equal(back[visible], np.tile(np.arange(patches), (50, 1))[visible])


def test_random_keep_is_uniform():
    @jax.jit
    def draw():
        return masking.random_masking(jax.random.key(1), 4000, 16, 0.75)[1]

    np.testing.assert_allclose(np.asarray(draw()).mean(0), 0.75, atol=0.03)


def test_patchify_order_and_inverse():
    images = np.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)

    @jax.jit
    def there_and_back(images):
        patches = ops.patchify(images, 2)
        return patches, ops.unpatchify(patches, 2, 3)

    patches, back = map(np.asarray, there_and_back(images))
    assert patches.shape == (2, 9, 12)
    np.testing.assert_array_equal(patches[1, 5], images[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(back, images)


def test_unit():
    x = np.random.default_rng(0).normal(size=(4, 7))
    wanted = x / np.linalg.norm(x, axis=1, keepdims=True)

    @jax.jit
    def both(x, zero):
        return ops.l2_normalize(x), jax.grad(lambda v: ops.l2_normalize(v).sum())(zero)

    found, grad = both(np.float32(x), np.zeros(3, np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert np.isfinite(grad).all()


def reference_cosine(p, z):
    """Cosine of each row."""
    return (p * z).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(z, axis=1)


def test_regression_is_byols_equation_2_and_stops_the_targets_gradient():
    rng = np.random.default_rng(0)
    p, z, direction = rng.normal(size=(3, 5, 4))

    def wanted(p):
        return np.mean([np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2)
                                    for a, b in zip(p, z, strict=True)])  # fmt: skip

    value, grads = jax.jit(jax.value_and_grad(losses.byol_loss, (0, 1)))(
        np.float32(p), np.float32(z)
    )
    along = (np.asarray(grads[0]) * direction).sum()
    np.testing.assert_allclose(value, wanted(p), rtol=1e-5)
    np.testing.assert_allclose(along, slope(wanted, p, direction), rtol=1e-3)
    np.testing.assert_array_equal(grads[1], 0)


def reference_barlow(a, b, weight):
    """Equations 1 and 2 of the paper, sums written out."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = (a[:, i] * b[:, j]).sum() / len(a)
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_barlow_is_equations_1_and_2(shape):
    rng = np.random.default_rng(0)
    a, b, direction = rng.normal(size=(3, *shape)) * 2 + 1
    value, grad = jax.jit(jax.value_and_grad(losses.barlow_twins))(
        np.float32(a), np.float32(b), 0.3
    )
    np.testing.assert_allclose(value, reference_barlow(a, b, 0.3), rtol=1e-5)
    along = slope(lambda a: reference_barlow(a, b, 0.3), a, direction)
    found = (np.asarray(grad) * direction).sum()
    np.testing.assert_allclose(found, along, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("shape", "made"), [((3, 50), 3), ((50, 3), 3), ((7, 7), 7)])
def test_the_smaller_of_the_two_products_is_made(shape, made):
    z = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.make_jaxpr(losses.off_diagonal_squares)(z, z)
    products = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert {eqn.outvars[0].aval.shape for eqn in products} == {(made, made)}


def test_ema_and_its_cosine():
    old, new = np.float32([1, 2]), np.float32([3, 6])
    tree = jax.jit(ops.ema)({"w": old}, {"w": new}, 0.75)
    np.testing.assert_allclose(tree["w"], [1.5, 3.0])
    ends = jax.jit(lambda step: ops.cosine_schedule(step, 100, 0.99, 1.0))(np.array([0, 50, 100]))
    np.testing.assert_allclose(ends, [0.99, 0.995, 1.0], rtol=1e-6)
