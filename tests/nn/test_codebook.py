"""The codebook against Sonnet's update in NumPy; finite scalar quantization against its paper."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config_of

from jssl.config import UserError
from jssl.metrics import perplexity
from jssl.nn.codebook import Codebook, quantizer_from_config
from jssl.nn.fsq import FSQ

K, D, DECAY = 6, 3, 0.9
BOOK = Codebook(K, D, DECAY, commitment=0.25, reseed_below=0.5)
KEY = jax.random.key(0)
step = jax.jit(lambda book, z: BOOK(book, z, KEY))


def encodings(seed):
    """[2, 2, 4, D]: the rows of two images."""
    return np.random.default_rng(seed).normal(size=(2, 2, 4, D)).astype(np.float32)


class Sonnet:
    """VectorQuantizerEMA of van den Oord et al., in float64, with bias-corrected averages."""

    def __init__(self, codes):
        self.codes = np.float64(codes)
        self.count = np.zeros(K)
        self.total = np.zeros((K, D))
        self.steps = 0

    def __call__(self, z):
        rows = np.float64(z).reshape(-1, D)
        ids = np.array([np.argmin([np.sum((row - e) ** 2) for e in self.codes]) for row in rows])
        nearest = self.codes[ids]
        loss = 0.25 * np.mean((nearest - rows) ** 2)
        self.steps += 1
        for k in range(K):
            own = rows[ids == k]
            self.count[k] += (len(own) - self.count[k]) * (1 - DECAY)
            self.total[k] += (own.sum(0) - self.total[k]) * (1 - DECAY)
        count = self.count / (1 - DECAY**self.steps)
        total = self.total / (1 - DECAY**self.steps)
        n = count.sum()
        smooth = (count + 1e-5) / (n + K * 1e-5) * n
        self.codes = total / smooth[:, None]
        return ids.reshape(z.shape[:-1]), loss, nearest.reshape(z.shape)


def test_the_codebook_moves_as_sonnets():
    book = BOOK.init(KEY)
    sonnet = Sonnet(book["codes"])
    for seed in range(4):
        z = encodings(seed)
        ids, loss, nearest = sonnet(z)
        codes, ours, value, book = step(book, z)
        np.testing.assert_array_equal(ours, ids)
        np.testing.assert_allclose(value, loss, rtol=1e-5)
        np.testing.assert_allclose(codes, nearest, rtol=1e-5, atol=1e-5)
        used = sonnet.count > 0
        np.testing.assert_allclose(book["codes"][used], sonnet.codes[used], rtol=1e-4, atol=1e-5)


def test_gradients_pass_the_codebook_unchanged():
    book = BOOK.init(KEY)
    z = encodings(0)
    weight = encodings(1)

    def value(z, with_loss):
        codes, _, loss, _ = BOOK(book, z, KEY)
        return (codes * weight).sum() + with_loss * loss

    gradient = jax.jit(jax.grad(value))
    np.testing.assert_allclose(gradient(z, 0.0), weight, rtol=1e-6)
    nearest = Sonnet(book["codes"])(z)[2]
    of_loss = 0.25 * 2 * (z - nearest) / z.size
    np.testing.assert_allclose(gradient(z, 1.0) - weight, of_loss, rtol=1e-3, atol=1e-6)


def test_codes_out_of_use_are_drawn_from_the_batch():
    book = BOOK.init(KEY)
    np.testing.assert_array_equal(BOOK.reseed(book)["codes"], book["codes"])  # nothing is known yet
    far = book["codes"].at[2:].add(100.0)
    z = encodings(0)
    _, ids, _, moved = step(book | {"codes": far}, z)
    assert set(np.unique(ids)) <= {0, 1}
    again = jax.jit(BOOK.reseed)(moved)
    rows = {tuple(row) for row in z.reshape(-1, D)}
    assert {tuple(np.asarray(row)) for row in again["codes"][2:]} <= rows
    kept = np.asarray(moved["count"]) >= 0.5 * (1 - DECAY)
    np.testing.assert_array_equal(again["codes"][kept], moved["codes"][kept])
    counts = np.asarray(again["count"]) / (1 - DECAY)
    np.testing.assert_allclose(counts[~kept], 1, rtol=1e-5)
    after = step(again, z)[1]
    assert len(np.unique(after)) > 2  # new codes are used
    off = BOOK._replace(reseed_below=0.0)
    np.testing.assert_array_equal(off.reseed(moved)["codes"], moved["codes"])


@pytest.mark.parametrize("levels", [(8, 5, 3), (4, 7), (2, 2)])
def test_fsq_reaches_every_code_of_its_grid(levels):
    """Appendix A.1: L values for each number, in -1..1, and one id for each combination."""
    fsq = FSQ(levels)
    ends = np.linspace(-6, 6, 400)
    dim = len(levels)
    one = np.float32(np.stack([ends] * dim, axis=-1))
    codes, found = map(np.asarray, jax.jit(lambda z: fsq({}, z, KEY)[:2])(one))
    lookup = jax.jit(lambda ids: fsq.lookup({}, ids))
    axes = [np.unique(codes[:, i].round(4)) for i in range(dim)]
    for values, count in zip(axes, levels, strict=True):
        half = count // 2
        np.testing.assert_allclose(values, (np.arange(count) - half) / half, atol=1e-4)
    grid = np.float32([*itertools.product(*axes)])
    ids = np.arange(fsq.num_codes)
    assert fsq.num_codes == len(grid)
    looked_up = np.asarray(lookup(ids))
    assert {tuple(row.round(4)) for row in looked_up} == {tuple(row.round(4)) for row in grid}
    np.testing.assert_array_equal(jax.jit(lambda z: fsq.ids({}, z))(one), found)
    np.testing.assert_allclose(lookup(found), codes, atol=1e-5)


def test_fsq_passes_the_gradient_of_its_bound():
    fsq = FSQ((5, 5))
    z = np.float32([[0.3, -0.8]])
    gradient = jax.jit(jax.grad(lambda z: fsq({}, z, KEY)[0].sum()))(z)
    half = (5 - 1) * (1 - 1e-3) / 2
    np.testing.assert_allclose(gradient, half * (1 - np.tanh(z) ** 2) / 2, rtol=1e-5)


def test_perplexity():
    ids = jnp.asarray([[0, 0, 1, 1], [2, 2, 3, 3]])
    of_nine = jax.jit(lambda ids: perplexity(ids, 9))
    np.testing.assert_allclose(of_nine(ids), 4, rtol=1e-6)
    np.testing.assert_allclose(of_nine(0 * ids), 1, rtol=1e-6)


def test_levels_that_do_not_fit_are_one_line():
    config = config_of("configs/vqvae_cifar10.py:fsq+tiny", levels="(8,8)")
    with pytest.raises(UserError, match=r"^--config.levels=.*decoder.dim=2$"):
        quantizer_from_config(config)
