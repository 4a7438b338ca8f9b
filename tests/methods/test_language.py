"""BERT's choice of tokens and GPT's loss, against what the papers say."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.methods import bert

SPECIAL = np.zeros((200, 64), bool)
SPECIAL[:, 0] = SPECIAL[:, 40:] = True


@jax.jit
def select_and_corrupt(special, word=None):
    """(places, weights, rows of the token 7 that are corrupted there)"""
    at, weight = bert.select(jax.random.key(0), special, word, 0.15, 10)
    tokens = jnp.full(special.shape, 7)
    return at, weight, bert.corrupt(jax.random.key(1), tokens, at, weight, 3, 1000)


def test_berts_choice_has_the_stated_number_and_spares_special_tokens():
    at, weight, _ = map(np.asarray, select_and_corrupt(SPECIAL))
    assert (weight.sum(1) == round(0.15 * 39)).all() and at.shape == weight.shape == (200, 10)
    chosen = at[weight > 0]
    assert chosen.min() >= 1 and chosen.max() < 40
    counts = np.bincount(chosen, minlength=40)[1:]
    np.testing.assert_allclose(counts.mean(), 200 * 6 / 39, rtol=1e-6)
    assert counts.min() > 10, "every place may be chosen"
    for row in range(5):
        assert len(set(at[row, :6].tolist())) == 6


def test_whole_words_are_chosen_together():
    """Words of four tokens: but for the one that is cut, all or none of a word."""
    word = np.tile(np.arange(64) // 4, (200, 1))
    at, weight, _ = map(np.asarray, select_and_corrupt(np.zeros((200, 64), bool), word))
    for row in np.where(weight > 0, at // 4, -1):
        sizes = np.bincount(row[row >= 0])
        assert sorted(sizes[sizes > 0].tolist()) == [2, 4, 4]


def test_berts_corruption_is_80_10_10():
    at, _, seen = map(np.asarray, select_and_corrupt(np.zeros((400, 64), bool)))
    here = np.take_along_axis(seen, at, 1)
    share = [(here == 3).mean(), ((here != 3) & (here != 7)).mean(), (here == 7).mean()]
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1], atol=0.02)
    untouched = np.ones(seen.shape, bool)
    np.put_along_axis(untouched, at, False, 1)
    assert (seen[untouched] == 7).all()


def test_places_that_are_not_chosen_are_not_corrupted():
    seen = np.asarray(select_and_corrupt(SPECIAL)[2])
    assert ((seen != 7).sum(1) <= 6).all()


def reference_next_token(hidden, table, tokens, segment):
    total, right, count = 0.0, 0, 0
    for b in range(tokens.shape[0]):
        for i in range(tokens.shape[1] - 1):
            if segment[b, i] and segment[b, i] == segment[b, i + 1]:
                logits = table @ hidden[b, i]
                log_p = logits - np.log(np.exp(logits).sum())
                total -= log_p[tokens[b, i + 1]]
                right += logits.argmax() == tokens[b, i + 1]
                count += 1
    return total / count, right / count


@partial(jax.jit, static_argnames="chunk")
def next_token(hidden, table, tokens, segment, chunk):
    """((loss, top-1), gradients)"""
    loss = jax.value_and_grad(losses.next_token, (0, 1), has_aux=True)
    return loss(hidden, table, tokens, segment, chunk)


@pytest.mark.parametrize("chunk", [1, 4, 12])
def test_next_token_in_chunks_is_the_mean_over_documents_own_tokens(chunk):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(3, 12, 5)), rng.normal(size=(9, 5))
    tokens = rng.integers(0, 9, (3, 12))
    segment = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12, [1, 2, 3] + [4] * 9])
    given = (np.float32(hidden), np.float32(table), tokens, segment)
    (value, right), gradients = next_token(*given, chunk=chunk)
    wanted = reference_next_token(hidden, table, tokens, segment)
    np.testing.assert_allclose([value, right], wanted, rtol=1e-5)
    whole = next_token(*given, chunk=12)[1]
    chex.assert_trees_all_close(gradients, whole, atol=1e-6)


def test_next_token_never_holds_all_logits():
    """No array of the program, backward pass included, has places x vocabulary elements."""
    shapes = [(2, 64, 8), (500, 8)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    ids = np.zeros((2, 64), np.int32)

    def loss(h, t):
        return losses.next_token(h, t, ids, ids + 1, 8)[0]

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*given))
    assert "f32[2,8,500]" in text
    assert "f32[2,64,500]" not in text and "f32[8,2,8,500]" not in text


def test_weighted_cross_entropy():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    answer, weight = np.array([0, 1, 2, 0]), np.array([1.0, 0.0, 1.0, 0.5])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -(log_p[np.arange(4), answer] * weight).sum() / weight.sum()
    value, right = jax.jit(losses.cross_entropy)(np.float32(logits), answer, weight)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    hits = (logits.argmax(1) == answer) * weight
    np.testing.assert_allclose(right, hits.sum() / weight.sum(), rtol=1e-6)
