"""Joint-embedding losses, their operations and diagnostics against float64 NumPy references written
from the papers' formulas; gradients by central differences along random directions."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ALL
from helpers.losses import agree, close, reference_sinkhorn, unit

from jssl import losses, metrics, ops

epps_pulley = jax.jit(losses.epps_pulley)
feature_std = jax.jit(metrics.feature_std)
enqueue = jax.jit(ops.enqueue)
rankme = jax.jit(metrics.rankme)
vicreg = jax.jit(losses.vicreg)  # of any weights
both_kinds = pytest.mark.parametrize("spherical", [False, True])


def reference_dcl(z_a, z_b, temperature, weight):
    """Equation 6 of Decoupled Contrastive Learning over both views of each image."""
    views, total = (unit(z_a), unit(z_b)), 0.0
    for view, partner in (views, views[::-1]):
        for i in range(len(z_a)):
            others = [other[j] for other in views for j in range(len(z_a)) if j != i]
            negatives = sum(np.exp(view[i] @ u / temperature) for u in others)
            total += np.log(negatives) - weight[i] * (view[i] @ partner[i]) / temperature
    return total / (2 * len(z_a))


def dcl(a, b, temperature):
    return losses.dcl(a, b, temperature)[0]


def dclw(a, b, temperature):
    return losses.dcl(a, b, temperature, 0.5)[0]


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_dcl_is_equation_6(temperature, sigma):
    """Its weight, a negative von Mises-Fisher density, is a constant to the gradient: the paper's
    formula does not say, implementations differ; ours only scales how much a pair counts."""
    z_a, z_b = np.random.default_rng(1).normal(size=(2, 7, 5)) * 3
    z_b += z_a
    density = np.exp((unit(z_a) * unit(z_b)).sum(1) / sigma) if sigma else np.ones(7)
    weight = 2 - density / density.mean()

    def wanted(a, b):
        return reference_dcl(a, b, temperature, weight)

    agree(dclw if sigma else dcl, wanted, z_a, z_b, given=(temperature,))


def reference_info_nce(q, k, temperature, queue=None):
    """Equation 1 of MoCo; negatives are the queue, or the batch's other keys as in MoCo v3."""
    q, k, total = unit(q), unit(k), 0.0
    for i in range(len(q)):
        negatives = [k[j] for j in range(len(k)) if j != i] if queue is None else unit(queue)
        scores = np.exp([q[i] @ row / temperature for row in (k[i], *negatives)])
        total -= np.log(scores[0] / scores.sum())
    return total / len(q)


def info_nce(q, k, *queue_and_temperature):
    *queue, temperature = queue_and_temperature
    return losses.info_nce(q, k, temperature, *queue)[0]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_is_equation_1_of_moco(temperature):
    q, k, queue = np.random.default_rng(3).normal(size=(3, 9, 4)) * 2

    def wanted(q, k, *queue):
        return reference_info_nce(q, k, temperature, *queue)

    agree(info_nce, wanted, q[:6], (q + k)[:6], given=(temperature,))
    agree(info_nce, wanted, q[:6], (q + k)[:6], queue, given=(temperature,))


def test_top1_is_how_often_the_partner_is_the_nearest():
    a, noise, queue = np.float32(np.random.default_rng(4).normal(size=(3, 24, 4)))
    b, n = a + noise, np.arange(48)
    views = unit(np.concatenate([a, b])) @ unit(np.concatenate([a, b])).T
    views[n, n] = -np.inf
    keys = unit(a) @ unit(b).T
    views, batch = np.mean(views.argmax(1) == (n + 24) % 48), np.mean(keys.argmax(1) == n[:24])
    beats = np.mean(np.diag(keys) > (unit(a) @ unit(queue).T).max(1))
    assert 0.1 < views < batch < beats < 0.9

    @jax.jit
    def found(a, b, queue):
        pairs = [loss(a, b, 0.2) for loss in (losses.nt_xent, losses.dcl, losses.info_nce)]
        return [top1 for _, top1 in (*pairs, losses.info_nce(a, b, 0.2, queue))]

    for top1, wanted in zip(found(a, b, queue), (views, views, batch, beats), strict=True):
        close(top1, wanted)


CONTRASTIVE = {
    "nt_xent": lambda a, b: losses.nt_xent(a, b, 0.2),
    "dcl": lambda a, b: losses.dcl(a, b, 0.2),
    "dclw": lambda a, b: losses.dcl(a, b, 0.2, 0.5),
    "info_nce": lambda a, b: losses.info_nce(a, b, 0.2),
    "queue": lambda a, b: losses.info_nce(a, b, 0.2, jnp.roll(jnp.concatenate([a, b]), 1, 1)),
}


@pytest.mark.parametrize("name", CONTRASTIVE)
@pytest.mark.parametrize("batch", [8, 7, 13] if ALL else [13])
def test_columns_in_chunks_are_the_whole_matrix(monkeypatch, name, batch):
    """And, forward and backward, no array of the traced program is as large as that matrix."""
    z, noise = np.float32(np.random.default_rng(5).normal(size=(2, batch, 3)))
    monkeypatch.setattr(losses.contrastive, "CHUNK_COLUMNS", 4)
    found, largest = [], []
    for whole in (losses.contrastive.MAX_DENSE_ELEMENTS, 0):
        monkeypatch.setattr(losses.contrastive, "MAX_DENSE_ELEMENTS", whole)
        loss = jax.value_and_grad(lambda a, b: CONTRASTIVE[name](a, b), (0, 1), has_aux=True)
        traced = jax.jit(loss).trace(z, z + noise)
        found.append(jax.device_get(traced.lower().compile()(z, z + noise)))
        shapes = re.findall(r"\w+\[([\d,]+)\]", str(traced.jaxpr))
        largest.append(max(np.prod([int(n) for n in re.findall(r"\d+", s)]) for s in shapes))
    ((whole, top1), grads), ((value, value_top1), value_grads) = found
    close(value, whole, 1e-6)
    assert value_top1 == top1
    close(np.array(value_grads), np.array(grads), 1e-6, 1e-6)
    matrix = batch**2 * {"info_nce": 1, "queue": 2}.get(name, 4)
    assert largest[1] < matrix <= largest[0]


def reference_vicreg(z_a, z_b):
    """The terms of equations 1 to 5, with the constants of the authors' main_vicreg.py."""
    batch, width = z_a.shape
    terms = {"invariance": np.mean((z_a - z_b) ** 2), "variance": 0.0, "covariance": 0.0}
    for z in (z_a - z_a.mean(0), z_b - z_b.mean(0)):
        c = sum(np.outer(row, row) for row in z) / (batch - 1)
        for i in range(width):
            terms["variance"] += max(0.0, 1 - np.sqrt(c[i, i] + 1e-4)) / width / 2
            terms["covariance"] += sum(c[i, j] ** 2 for j in range(width) if j != i) / width
    return terms


def vicreg_value(z_a, z_b, *weights):
    return losses.vicreg(z_a, z_b, *weights)[0]


@pytest.mark.parametrize("batch", [9, 4])  # more and fewer than the features
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (25.0, 20.0, 1.5)])
def test_vicreg_is_the_authors_code(weights, batch):
    widths = [0.01, 0.3, 0.8, 1.0, 1.5, 3.0]  # both sides of the hinge, and near its 1e-4
    z_a, z_b = np.random.default_rng(6).normal(size=(2, batch, 6)) * widths + 2

    def wanted(a, b):
        return np.dot(weights, list(reference_vicreg(a, b).values()))

    given = tuple(map(float, weights))
    agree(vicreg_value, wanted, z_a, z_b, given=given)
    terms = vicreg(np.float32(z_a), np.float32(z_b), *given)[1]
    for name, value in reference_vicreg(z_a, z_b).items():
        close(terms.pop(name), value)
    assert not terms


def test_soft_cross_entropy_and_no_gradient_of_the_target():
    rng = np.random.default_rng(7)
    x, target = rng.normal(size=(5, 7)) * 4, rng.dirichlet(np.ones(7), 5)

    def log_p(x):
        return [row - np.log(np.exp(row).sum()) for row in x]

    def wanted(x):
        return -np.mean([t @ row for t, row in zip(target, log_p(x), strict=True)])

    agree(lambda x: losses.soft_cross_entropy(x, np.float32(target)), wanted, x)
    grad = jax.jit(jax.grad(losses.soft_cross_entropy, 1))(np.float32(x), np.float32(target))
    np.testing.assert_array_equal(grad, 0)


def reference_epps_pulley(x, knots=17):
    """LeJEPA's statistic of a vector: the weighted squared distance of two characteristic
    functions, twice the trapezoid rule on [0, 3]."""
    t = np.linspace(0, 3, knots)
    gaussian = np.exp(-(t**2) / 2)
    empirical = np.mean([np.exp(1j * t * value) for value in x], axis=0)
    return 2 * len(x) * np.trapezoid(np.abs(empirical - gaussian) ** 2 * gaussian, t)


def test_epps_pulley_is_the_formula():
    rng = np.random.default_rng(8)
    x, weight = rng.normal(size=(2, 3, 11, 4)) * 1.5 + 0.3, rng.uniform(size=(2, 3, 4))

    def every(x):
        return np.apply_along_axis(reference_epps_pulley, -2, x)

    close(epps_pulley(np.float32(x)), every(x), 1e-4)
    agree(lambda x: (losses.epps_pulley(x) * weight).sum(), lambda x: (every(x) * weight).sum(), x)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 2.0), (0.2, 0.0), (3.0, -1.0)])
def test_epps_pulley_is_near_its_integral(scale, shift):
    """A fine quadrature of the same interval, and the integral over the line in closed form."""
    x = np.random.default_rng(9).normal(size=40) * scale + shift
    found = np.asarray(epps_pulley(np.float32(x)[:, None]))[0]
    close(found, reference_epps_pulley(x, knots=20001), 0.01)
    own = np.mean(np.exp(-((x[:, None] - x) ** 2) / 2))
    cross = np.mean(np.exp(-(x**2) / 4)) / np.sqrt(2)
    close(found, 40 * np.sqrt(2 * np.pi) * (own - 2 * cross + 1 / np.sqrt(3)), 0.03)


def test_sigreg_is_the_mean_over_unit_directions_and_views():
    """In the plane that mean is an integral over the angle. A cross shows directions that are not
    isotropic; its two shifts show views that are not tested one by one."""
    cross = np.array([[2.5, 0], [0, 2.5], [-2.5, 0], [0, -2.5]])
    z, angles = np.stack([cross + [1, 0], cross - [1, 0]]), np.arange(360) * np.pi / 360
    along = z @ np.stack([np.cos(angles), np.sin(angles)])
    values = np.apply_along_axis(reference_epps_pulley, 1, along).mean(0)

    @partial(jax.jit, static_argnums=1)
    def jitted(seed, slices):
        return losses.sigreg(jax.random.key(seed), np.float32(z), slices)

    def sigreg(seed, slices):
        return float(jitted(seed, slices))

    close(sigreg(0, 4096), values.mean(), 0, 4 * values.std() / 64)
    assert sigreg(1, 8) == sigreg(1, 8) != sigreg(2, 8)

    # the line's unit directions are 1 and -1, and the statistic is even: no chance is left
    def wanted(z):
        return np.apply_along_axis(reference_epps_pulley, 1, z).mean()

    agree(lambda z: losses.sigreg(jax.random.key(0), z, 5), wanted, z[..., :1])


def test_sigreg_prefers_the_gaussian():
    rng = np.random.default_rng(0)
    gaussian = np.float32(rng.normal(size=(2, 256, 16)))
    shifted = np.float32(rng.uniform(size=gaussian.shape)) + 0.5
    line = gaussian[..., :1] * np.ones(16, np.float32)
    jitted = jax.jit(lambda z: losses.sigreg(jax.random.key(2), z, 64))

    def score(z):
        return float(jitted(z))

    for other in (np.zeros_like(gaussian), shifted, line, 2 * gaussian):
        assert score(other) > 5 * score(gaussian)


@partial(jax.jit, static_argnums=2)
def sinkhorn(scores, epsilon, iterations):
    """Also with a weight of 0 for each row, as in iBOT where no patch is hidden."""
    nobody = ops.sinkhorn(scores, epsilon, iterations, jnp.zeros(len(scores)))
    return ops.sinkhorn(scores, epsilon, iterations), nobody


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 50.0), (10.0, 0.0)])
def test_sinkhorn_is_swavs_appendix(iterations, scale, shift):
    """Of any scale: shifted scores overflow a bare exp in float32, wide ones underflow it."""
    scores = np.float32(np.random.default_rng(12).uniform(-scale, scale, (12, 5)) + shift)
    found, nobody = map(np.asarray, sinkhorn(scores, 0.05, iterations))
    close(found, reference_sinkhorn(np.float64(scores), 0.05, iterations), 1e-3, 1e-6)
    close(found.sum(1), 1)
    close(nobody, found)

    def columns(iterations):
        return np.asarray(sinkhorn(scores / np.float32(scale), 0.5, iterations)[0]).sum(0)

    assert np.ptp(columns(1)) > 0.01
    close(columns(10), 12 / 5)  # half of the tolerance is left to rounding


def test_push():
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    queue = enqueue(rows[:6], rows[6:8])
    np.testing.assert_array_equal(queue, rows[[6, 7, 0, 1, 2, 3]])
    np.testing.assert_array_equal(enqueue(queue, rows[8:]), rows[[8, 9, 6, 7, 0, 1]])
    np.testing.assert_array_equal(enqueue(rows[:4], rows[4:8]), rows[4:8])


@partial(jax.jit, static_argnums=(3, 5))
def kmeans_of_seed(seed, x, weight, k, iterations, spherical):
    """One program for every number of iterations."""
    return ops.kmeans(jax.random.key(seed), x, weight, k, iterations, spherical)


def kmeans(seed, x, weight, k, iterations, spherical):
    x, weight = np.float32(x), np.float32(weight)
    centroids, found = kmeans_of_seed(seed, x, weight, k, iterations, spherical)
    assert centroids.shape == (k, x.shape[1]) and found.dtype == jnp.int32
    assert set(found.tolist()) <= set(range(k))
    return np.float64(centroids), np.asarray(found)


def distance(x, centroids, spherical):
    return -x @ centroids.T if spherical else ((x[:, None] - centroids) ** 2).sum(-1)


def mean(x, weight, spherical):
    centroid = weight @ x / weight.sum()
    return unit(centroid) if spherical else centroid


@both_kinds
def test_kmeans_finds_far_blobs(spherical):
    """Exactly, from the best of eight starts: Lloyd's steps do not leave every bad start."""
    rng = np.random.default_rng(14)
    labels = rng.permutation(np.repeat(np.arange(3), [8, 12, 16]))
    weight = np.where(np.arange(36) % 4, 1 + labels % 2, 0)
    x = 10 * np.eye(3, 6)[labels] + rng.normal(size=(36, 6)) * 0.1
    x = unit(x) if spherical else x + 5
    fits = [kmeans(seed, x, weight, 3, 10, spherical) for seed in range(8)]
    centroids, found = min(fits, key=lambda fit: distance(x, fit[0], spherical).min(1).sum())
    assert len({*zip(labels, found, strict=True)}) == 3
    for own in (labels == 0, labels == 1, labels == 2):
        wanted = mean(x[own], weight[own], spherical)
        close(centroids[found[own][0]], wanted, 1e-4, 1e-4)


@both_kinds
def test_kmeans_does_lloyds_steps(spherical):
    """One iteration more is one step of Lloyd's algorithm, and the objective does not rise."""
    rng = np.random.default_rng(15)
    x, weight = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    x = unit(x) if spherical else x
    fits = [kmeans(0, x, weight, 8, n, spherical) for n in range(1, 11)]
    for (before, chosen), (after, _) in zip(fits, fits[1:], strict=False):
        np.testing.assert_array_equal(chosen, distance(x, before, spherical).argmin(1))
        own = [chosen == c for c in range(8)]
        close(after, [mean(x[rows], weight[rows], spherical) for rows in own], 1e-4, 1e-5)
    objective = [weight @ distance(x, fit[0], spherical).min(1) for fit in fits]
    assert (np.diff(objective) <= 1e-4).all() and objective[-1] < objective[0] - 0.1


@both_kinds
def test_kmeans_ignores_weight_zero_and_survives_empty_clusters(spherical):
    rng = np.random.default_rng(16)
    x, weight = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    junk = np.where(weight[:, None], x, 1000 * rng.normal(size=x.shape))
    one, two = (kmeans(1, rows, weight, 5, 5, spherical) for rows in (x, junk))
    close(one[0], two[0], 1e-6)
    np.testing.assert_array_equal(one[1][weight > 0], two[1][weight > 0])
    centroids, _ = kmeans(0, np.tile(np.eye(3), (4, 1)), np.ones(12), 8, 5, spherical)
    assert np.isfinite(centroids).all()


def test_spread_alignment_and_uniformity():
    z_a, z_b = np.random.default_rng(17).normal(size=(2, 10, 6)) * 3 + 1
    a, b = np.float32(z_a), np.float32(z_b)
    close(feature_std(a), np.mean([np.std(x) for x in unit(z_a).T]) * np.sqrt(6))
    close(feature_std(np.float32(np.random.default_rng(0).normal(size=(4000, 64)))), 1, 0.02)
    close(feature_std(np.full((6, 8), 3, np.float32)), 0, atol=1e-3)

    def gap(u, v):
        return np.linalg.norm(unit(u) - unit(v)) ** 2

    close(jax.jit(metrics.alignment)(a, b), np.mean([gap(z_a[i], z_b[i]) for i in range(10)]))
    even = [np.exp(-2 * gap(z_a[i], z_a[j])) for i in range(10) for j in range(i)]
    close(jax.jit(metrics.uniformity)(a), np.log(np.mean(even)))


def test_rankme_is_equations_1_and_2():
    rng = np.random.default_rng(19)
    for shape in [(20, 6), (6, 20)]:
        z = rng.normal(size=shape) * np.geomspace(0.01, 3, shape[1])
        values = np.linalg.svd(z, compute_uv=False)
        p = values / values.sum()
        close(rankme(np.float32(z)), np.exp(-p @ np.log(p)), 1e-4)
    line = np.outer(rng.normal(size=20), rng.normal(size=6))
    close(rankme(np.float32(line)), 1, 1e-3)
    close(rankme(np.float32(np.linalg.qr(rng.normal(size=(8, 5)))[0].T * 7)), 5, 1e-4)


# XLA must round where the program says so, as it does op by op.
EXACT = {"xla_allow_excess_precision": False}
NARROW = {
    **{name: lambda z, loss=loss: loss(*z) for name, loss in CONTRASTIVE.items()},
    "vicreg": lambda z: losses.vicreg(*z, 25.0, 25.0, 1.0),
    "soft_cross_entropy": lambda z: losses.soft_cross_entropy(*z),
    "epps_pulley": losses.epps_pulley,
    "sigreg": lambda z: losses.sigreg(jax.random.key(0), z, 8),
    "kmeans": lambda z: ops.kmeans(jax.random.key(0), z[0], jnp.ones(8), 3, 4, True)[0],
    "sinkhorn": lambda z: ops.sinkhorn(z[0], 0.5, 3),
    "alignment": lambda z: metrics.alignment(*z),
    "rest": lambda z: [f(z[0]) for f in (metrics.feature_std, metrics.uniformity, metrics.rankme)],
}


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16_is_computed_in_float32(name):
    z = np.random.default_rng(20).normal(size=(2, 8, 16)).astype(jnp.bfloat16)
    loss = jax.jit(NARROW[name], compiler_options=EXACT)
    found, wanted = jax.tree.leaves(loss(z)), jax.tree.leaves(loss(np.float32(z)))
    for narrow, wide in zip(found, wanted, strict=True):
        assert narrow.dtype == jnp.float32
        close(narrow, wide, 1e-5, 1e-6)
