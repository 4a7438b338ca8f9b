"""kNN and linear probe against NumPy written from their definitions, and against their traps."""

import logging

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jssl.config import UserError
from jssl.evals import knn, linear


def clusters(n, classes=4, dim=8, spread=1.0, seed=0):
    """Features around one center a class, float32 [n, dim], and labels int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centers = np.random.default_rng(99).normal(size=(classes, dim))
    return np.float32(centers[labels] + spread * rng.normal(size=(n, dim))), np.int32(labels)


def mesh_of_all():
    if jax.device_count() < 2:
        pytest.skip("needs simulated devices: --xla_force_host_platform_device_count=8")
    shape = (jax.device_count() // 2, 2)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


# --- kNN -------------------------------------------------------------------------------------


def brute_force(bank, bank_labels, queries, classes, k, temperature):
    """The predictions of Wu et al. 2018, section 3.4, one query at a time."""
    predictions = []
    for query in queries.astype(np.float64):
        scores = []
        for row in bank.astype(np.float64):
            scores.append(query @ row / np.sqrt((query @ query) * (row @ row)))
        votes = [0.0] * classes
        for i in sorted(range(len(bank)), key=lambda i: -scores[i])[:k]:
            votes[bank_labels[i]] += np.exp(scores[i] / temperature)
        predictions.append(votes.index(max(votes)))
    return np.array(predictions)


BANK, QUERIES = clusters(60, spread=1.5, seed=1), clusters(45, spread=1.5, seed=11)
CASES = [(1, 0.1), (20, 0.07), (20, 10.0), (60, 0.5)]
predict = jax.jit(knn.predict, static_argnames=("k", "classes"))


@pytest.mark.parametrize("k, temperature", CASES)
def test_knn_is_the_papers(k, temperature):
    want = brute_force(*BANK, QUERIES[0], 4, k, temperature)
    bank, queries = knn.unit(BANK[0]), knn.unit(QUERIES[0])
    got = predict(bank, BANK[1], queries, temperature, k=k, classes=4)
    np.testing.assert_array_equal(got, want)
    top1 = knn.top1(*BANK, *QUERIES, classes=4, k=k, temperature=temperature, chunk=16)
    assert top1 == np.mean(want == QUERIES[1]) and 0.5 < top1 < 0.8


def test_knn_cases_differ():
    """Every k and temperature matters on this data: else the test above could not see them."""
    assert len({tuple(brute_force(*BANK, QUERIES[0], 4, *case)) for case in CASES}) == len(CASES)


def test_knn_chunks_and_devices_do_not_matter():
    options = {"classes": 4, "k": 7, "temperature": 0.1}
    whole = knn.top1(*BANK, *QUERIES, **options, chunk=45)
    assert [knn.top1(*BANK, *QUERIES, **options, chunk=c) for c in (1, 7, 64)] == [whole] * 3
    # a padded query counts for nothing: all vote for class 0, no query is of it
    assert knn.top1(BANK[0], 0 * BANK[1], QUERIES[0], 0 * QUERIES[1] + 1, **options, chunk=64) == 0
    assert knn.top1(*BANK, *QUERIES, **options, chunk=13, mesh=mesh_of_all()) == whole


def test_knn_compiles_once_and_keeps_queries_apart():
    mesh, axes = mesh_of_all(), P(("data", "fsdp"))
    before = knn.count_hits._cache_size()
    options = {"classes": 4, "k": 3, "temperature": 0.1, "chunk": 8, "mesh": mesh}
    knn.top1(*BANK, *QUERIES, **options)  # 6 chunks, the last of them padded
    knn.top1(*BANK, QUERIES[0][:11], QUERIES[1][:11], **options)
    assert knn.count_hits._cache_size() == before + 1
    bank, labels = (knn.place(a, mesh, P()) for a in BANK)
    asked, truth = (knn.place(a[:8], mesh, axes) for a in QUERIES)
    lowered = knn.count_hits.lower(bank, labels, asked, truth, 0.1, mesh=mesh, k=3, classes=4)
    assert "all-gather" not in lowered.compile().as_text()


def test_knn_small_temperature_does_not_overflow():
    """exp(1 / 0.005) is beyond float32; the nearest neighbor decides then."""
    nearest = knn.top1(*BANK, *QUERIES, classes=4, k=1, temperature=1.0, chunk=64)
    assert knn.top1(*BANK, *QUERIES, classes=4, k=10, temperature=1e-4, chunk=64) == nearest


def test_knn_ties_go_to_the_earlier_row_and_the_lower_class():
    bank, labels = np.ones((4, 2), np.float32), np.int32([3, 1, 0, 0])

    def ask(k, truth):
        return knn.top1(
            bank, labels, bank[:1], np.int32([truth]), classes=4, k=k, temperature=1.0, chunk=1
        )

    assert ask(1, 3) == 1
    assert ask(2, 1) == 1


def test_knn_k_above_the_bank_is_lowered_with_a_warning(caplog):
    options = {"classes": 4, "temperature": 0.1, "chunk": 64}
    assert knn.top1(*BANK, *QUERIES, k=200, **options) == knn.top1(*BANK, *QUERIES, k=60, **options)
    assert "eval.knn_k=200" in caplog.text


def test_unlabeled_rows_are_left_out_and_counted(caplog):
    caplog.set_level(logging.INFO)
    options = {"classes": 4, "k": 5, "temperature": 0.1, "chunk": 64}
    bank_labels, labels = BANK[1].copy(), QUERIES[1].copy()
    bank_labels[::3], labels[:9] = -1, -1
    known = bank_labels >= 0
    want = knn.top1(
        BANK[0][known], BANK[1][known], QUERIES[0][9:], QUERIES[1][9:], **options
    )  # fmt: skip
    assert knn.top1(BANK[0], bank_labels, QUERIES[0], labels, **options) == want
    assert "20 of 60 train" in caplog.text and "9 of 45 test" in caplog.text


def test_what_cannot_be_measured_is_said():
    options = {"classes": 4, "k": 5, "temperature": 0.1, "chunk": 64}
    none = np.full(60, -1)
    with pytest.raises(UserError, match="eval: none of the 60 train .*; choose a labeled"):
        knn.top1(BANK[0], none, *QUERIES, **options)
    with pytest.raises(UserError, match="eval: classes=3 .* label 3; .* 4"):
        knn.top1(*BANK, *QUERIES, **(options | {"classes": 3}))
    with pytest.raises(UserError, match="2 of 60 train features are not finite"):
        knn.top1(
            np.where(np.arange(60)[:, None] < 2, np.nan, BANK[0]), BANK[1], *QUERIES, **options
        )
    for key in ("k", "temperature"):
        with pytest.raises(UserError, match=f"eval.knn_{key}=0: must be"):
            knn.top1(*BANK, *QUERIES, **(options | {key: 0}))


# --- linear probe ----------------------------------------------------------------------------

OPTIONS = {
    "classes": 4, "lrs": (0.01, 0.1, 1.0), "weight_decays": (0.0, 1e-3), "epochs": 10,
    "batch_size": 32, "val_fraction": 0.2, "standardize": True, "seed": 0,
}  # fmt: skip
FIT = {
    "classes": 4,
    "epochs": 3,
    "batch_size": 16,
    "standardize": True,
    "seed": 0,
    "progress": None,
}


def fit(x, y, rows, grid, mesh=None, **changes):
    mesh = mesh or knn.one_device()
    data = [knn.place(array, mesh, P()) for array in (x, y)]  # as `probe` does: its programs serve
    heads, _ = linear.fit(*data, rows, grid, mesh=mesh, **(FIT | changes))
    return np.asarray(heads)


@jax.jit
def answers(heads, x):
    """The classes of x [B, D] by heads [D + 1, G, C] without standardization, [B, G]."""
    return linear.logits(heads, (0, 1), x).argmax(-1)


def test_probe_solves_a_separable_toy():
    train, test = clusters(100, spread=0.1), clusters(50, spread=0.1, seed=1)
    calls = []
    found = linear.probe(*train, *test, **OPTIONS, progress=lambda *now: calls.append(now))
    assert found["top1"] == found["held_out_top1"] == 1.0
    assert (found["n_train"], found["n_test"]) == (100, 50)
    assert calls == [(i + 1, 10) for i in range(10)] * 2
    # several points are never wrong: which of them wins must not depend on their order
    assert found == linear.probe(*train, *test, **(OPTIONS | {"lrs": OPTIONS["lrs"][::-1]}))


def test_probe_learns_nothing_from_noise():
    """More features than rows: train is memorized, so any leak would show."""
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(600, 400))), np.int32(rng.integers(0, 4, 600))
    found = linear.probe(x[:300], y[:300], x[300:], y[300:], **OPTIONS)
    heads = fit(x[:300], y[:300], np.arange(300), [(0.1, 0.0)], epochs=10, batch_size=32)
    assert (np.asarray(answers(heads, x[:300]))[:, 0] == y[:300]).mean() > 0.95
    assert 0.15 < found["top1"] < 0.35
    assert found["held_out_top1"] < 0.45  # the best of six points on 60 rows


def numpy_sgd(x, y, orders, rates, lr, decay, classes):
    """torch.optim.SGD's update with the softmax's gradient by hand, float64."""
    weight, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
    weight_v, bias_v = np.zeros_like(weight), np.zeros_like(bias)
    for rows, rate in zip(orders, rates, strict=True):
        z = x[rows] @ weight + bias
        p = np.exp(z - z.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - np.eye(classes)[y[rows]]) / len(rows)
        weight_v = 0.9 * weight_v + x[rows].T @ error + decay * weight
        bias_v = 0.9 * bias_v + error.sum(0)
        weight, bias = weight - rate * lr * weight_v, bias - rate * lr * bias_v
    return np.concatenate([weight, bias[None]])


def test_steps_equal_numpy():
    x, y = clusters(64)
    orders, rates = np.arange(48).reshape(3, 16), np.float32([1.0, 0.7, 0.2])
    grid = np.float32([(0.5, 0.0), (2.0, 0.1)])
    zeros, moments = np.zeros((9, 2, 4), np.float32), (x.mean(0), x.std(0))
    heads, _ = linear.train_epoch(zeros, zeros, x, y, moments, orders, rates, grid)
    for point, (lr, decay) in enumerate(grid):
        want = numpy_sgd((x - x.mean(0)) / x.std(0), y, orders, rates, lr, decay, 4)
        np.testing.assert_allclose(np.asarray(heads)[:, point], want, rtol=1e-4, atol=1e-6)


def test_fit_standardizes_scales_and_decays():
    """One batch an epoch, so that the order is no matter: three full-batch steps."""
    x, y = clusters(64)
    x = x * 3 + 5
    rows = np.arange(0, 64, 2)
    part = x[rows].astype(np.float64)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(3) / 3))
    for standardize in (True, False):
        seen = (x - part.mean(0)) / np.sqrt(part.var(0) + 1e-6) if standardize else x
        want = numpy_sgd(seen, y, [rows] * 3, 32 / 256 * cosine, 0.8, 0.01, 4)
        got = fit(x, y, rows, [(0.8, 0.01)], batch_size=999, standardize=standardize)
        np.testing.assert_allclose(got[:, 0], want, rtol=1e-4, atol=1e-5)


def test_held_out_rows_do_not_touch_the_first_pass():
    x, y = clusters(80)
    kept, held = linear.split(80, 0.2, seed=3)
    assert sorted([*kept, *held]) == list(range(80)) and len(held) == 16
    other_x, other_y = x.copy(), y.copy()
    other_x[held], other_y[held] = 1e6, (y[held] + 1) % 4
    grid = [(0.1, 0.0), (1.0, 1e-3)]
    np.testing.assert_array_equal(fit(x, y, kept, grid), fit(other_x, other_y, kept, grid))
    assert not np.array_equal(fit(x, y, kept, grid), fit(x, y, np.arange(80), grid))


def test_winner_learns_the_held_out_rows_too():
    """Class 3 is known from held-out rows alone, and the whole test is of class 3."""
    x, y = clusters(400, spread=0.1)
    _, held = linear.split(100, OPTIONS["val_fraction"], OPTIONS["seed"])
    rows = np.flatnonzero(y < 3)[:100]
    rows[held] = np.flatnonzero(y == 3)[: len(held)]
    test = np.flatnonzero(y == 3)[-50:]
    found = linear.probe(x[rows], y[rows], x[test], y[test], **OPTIONS)
    assert found["held_out_top1"] == 0.0 and found["top1"] == 1.0


def test_choice_is_by_held_out_not_by_test():
    """The test labels are the answers of the small rate, the worse one on held-out rows."""
    x, y = clusters(100, spread=0.1)
    x = x + 3 * np.float32(
        np.random.default_rng(5).normal(size=(100, 1))
    )  # the same on every column
    train, test, options = (x, y), -x[:50], OPTIONS | {"standardize": False}
    small, large = 1e-6, 0.3
    how = {key: options[key] for key in FIT if key in options}
    heads = fit(*train, np.arange(100), [(small, 0.0)], **how)
    labels = np.asarray(answers(heads, test))[:, 0]

    def measure(*lrs):
        return linear.probe(
            *train, test, labels, **(options | {"lrs": lrs, "weight_decays": (0.0,)})
        )

    worse, better = measure(small), measure(large)
    assert worse["held_out_top1"] < better["held_out_top1"] and worse["top1"] > better["top1"]
    assert measure(small, large) == measure(large, small) == better


def test_diverged_points_never_win():
    """Not-a-number logits answer class 0, here right more often than what noise teaches."""
    x = np.float32(np.random.default_rng(0).normal(size=(150, 8)))
    y = np.int32(np.where(np.arange(150) % 5 == 3, np.arange(150) % 4, 0))
    data, options = (x[:100], y[:100], x[100:], y[100:]), OPTIONS | {"weight_decays": (0.0,)}
    heads = fit(*data[:2], np.arange(100), [(np.inf, 0.0)], batch_size=32)
    assert not np.isfinite(heads).any()
    found = linear.probe(*data, **(options | {"lrs": (3e38, 20.0, 3e38)}))
    _, held = linear.split(100, options["val_fraction"], options["seed"])
    assert found["lr"] == 20.0 and found["held_out_top1"] < np.mean(y[held] == 0)
    with pytest.raises(UserError, match=r"eval.linear_lrs=\(3e\+38,\): all diverged"):
        linear.probe(*data, **(options | {"lrs": (3e38,)}))


def test_probe_on_many_devices_is_the_same():
    mesh = mesh_of_all()
    train, test = clusters(100), clusters(50, seed=1)
    assert linear.probe(*train, *test, **OPTIONS, mesh=mesh) == linear.probe(
        *train, *test, **OPTIONS
    )
    grid = [(0.1, 0.0), (0.3, 0.0), (1.0, 1e-2)]
    one, many = (fit(*train, np.arange(100), grid, where, batch_size=32) for where in (None, mesh))
    np.testing.assert_allclose(many[:, :3], one, rtol=1e-5, atol=1e-6)


def test_probe_comes_close_to_logistic_regression():
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression

    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y, train, test = np.float32(x) / 16, np.int32(y), order[:1200], order[1200:]
    reference = LogisticRegression(C=100.0, solver="newton-cg").fit(x[train], y[train])
    want = reference.score(x[test], y[test])
    options = OPTIONS | {"classes": 10, "epochs": 30, "batch_size": 128, "val_fraction": 0.1}
    found = linear.probe(x[train], y[train], x[test], y[test], **options)
    assert abs(found["top1"] - want) < 0.02 and want > 0.9


def test_probe_says_what_is_wrong():
    train, test = clusters(20), clusters(10, seed=1)
    wrong = {"lrs": (0.1, -1.0), "weight_decays": (), "epochs": 0, "val_fraction": 1.0}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=f"eval.linear_{key}=.*must"):
            linear.probe(*train, *test, **(OPTIONS | {key: value}))
    with pytest.raises(UserError, match="none of the 20 train examples has a label"):
        linear.probe(train[0], np.full(20, -1), *test, **OPTIONS)
    alone = np.where(np.arange(20) == 4, 1, -1)
    with pytest.raises(UserError, match="none to hold out"):
        linear.probe(train[0], alone, *test, **OPTIONS)
