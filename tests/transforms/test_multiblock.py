"""I-JEPA's masks: sizes against the rule of its authors' code, whole rectangles, contexts that are
large enough, and what fills a row counts for nothing."""

import collections
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_info

from jssl.config import Config, UserError, load
from jssl.methods import ijepa
from jssl.methods import load as load_method
from jssl.nn import masked_image
from jssl.transforms import multiblock
from jssl.transforms.masking import mask_to_indices

TINY = "configs/ijepa_imagenette.py:tiny"


def size_of(u, grid, share, aspect):
    """multiblock.py:55 to 72: one number u gives both, and sides stay below the grid's."""
    area = int(grid**2 * (share[0] + u * (share[1] - share[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    height, width = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
    while height >= grid:
        height -= 1
    while width >= grid:
        width -= 1
    return height, width


@pytest.mark.parametrize(
    ("grid", "share", "aspect"),
    [
        (16, (0.15, 0.2), (0.75, 1.5)), (16, (0.85, 1.0), (1.0, 1.0)),
        (8, (0.15, 0.2), (0.75, 1.5)), (32, (0.05, 0.3), (0.3, 3.0)),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_authors_code_as_often(grid, share, aspect):
    found = collections.Counter(map(tuple, multiblock.block_sizes(grid, share, aspect).tolist()))
    u = (np.arange(100_000) + 0.5) / 100_000
    wanted = collections.Counter(size_of(x, grid, share, aspect) for x in u)
    assert {size for size, n in wanted.items() if n > 200} <= set(found) <= set(wanted)
    for size, count in wanted.items():
        assert abs(found[size] / 1024 - count / 100_000) < 4 / 1024


@pytest.mark.parametrize("grid", [8, 16])
def test_targets_are_whole_rectangles_of_one_size_a_batch(grid):
    recipe = "configs/ijepa_vith_imagenet.py" if grid == 16 else "configs/ijepa_imagenette.py"
    config = Config(load(recipe))
    draw = jax.jit(multiblock.block_sampler(config, grid, 20), static_argnums=1)
    sizes, corners = set(), set()
    for seed in range(12):
        ask = jax.tree.map(np.asarray, draw(jax.random.key(seed), 24))
        count = int(ask.target_valid.sum())
        np.testing.assert_array_equal(ask.target_valid, np.arange(len(ask.target_valid)) < count)
        for at in ask.target_ids[..., :count].reshape(-1, count):
            rows, columns = at // grid, at % grid
            box = (np.ptp(rows) + 1, np.ptp(columns) + 1)
            assert len(set(at)) == count == box[0] * box[1]
            sizes.add((seed, box))
            corners.add((rows.max() == grid - 1, columns.max() == grid - 1))
        where, seen = ask.context_ids, ask.context_valid
        assert seen.sum(1).min() > config.min_context_patches
        for row in range(24):
            context = set(where[row][seen[row]])
            assert len(context) == seen[row].sum()
            assert not context & set(ask.target_ids[row, :, :count].ravel())
    assert len(sizes) == 12 and len({box for _, box in sizes}) > 1
    assert len(corners) == 4, "every row and column can be asked for"


def quadrants(*which):
    """Targets of a 4 x 4 grid, each a quadrant of it."""
    corner = np.arange(16) // 8 * 2 + np.arange(16) % 4 // 2
    return np.array([[corner == i for i in which]])


context_mask = jax.jit(multiblock.context_mask, static_argnames=("grid", "tries"))


@pytest.mark.parametrize(
    ("targets", "least", "wanted"),
    [
        ((0, 0, 1, 2), 3, [3]),  # what is free is enough
        ((0, 1, 2, 3), 3, [3]),  # nothing is free: the last target gives way
        ((0, 1, 2, 3), 4, [2, 3]),
        ((3, 2, 0, 1), 7, [0, 1]),
        ((0, 1, 2, 3), 15, [0, 1, 2, 3]),
        ((0, 1, 2, 3), 16, [0, 1, 2, 3]),  # too many: no target counts
    ],
)
def test_a_context_too_small_takes_from_the_last_targets(targets, least, wanted):
    whole = np.array([4, 4])
    found = context_mask(jax.random.key(0), quadrants(*targets), 4, whole, least)
    np.testing.assert_array_equal(found[0], quadrants(*wanted)[0].any(0))


def test_a_context_is_drawn_anew_until_it_is_large_enough():
    """A 2 x 2 square beside one target of a corner: four patches are free in few places."""
    target = np.arange(64).reshape(8, 8)
    hidden = np.repeat(((target // 8 < 6) | (target % 8 < 6)).reshape(1, 1, 64), 300, axis=0)
    size = np.array([2, 2])
    once = context_mask(jax.random.key(0), hidden, 8, size, 3, tries=1)
    often = context_mask(jax.random.key(0), hidden, 8, size, 3, tries=400)
    free = ~hidden[0, 0]
    np.testing.assert_array_equal(often, np.tile(free, (300, 1)))
    assert (np.asarray(once) & ~free).any(1).mean() > 0.9, "after one try the target gave way"


def test_what_fills_a_row_changes_nothing():
    """Encoder and predictor say the same of a short context and a small target, alone and in arrays
    that are filled up with other patches."""
    config = Config(load(TINY))
    encoder = masked_image.vit_from_config(config)
    grid = masked_image.grid_side(config, encoder)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    context = np.tile(np.isin(np.arange(16), [0, 5, 6]), (2, 1))
    target = np.tile(np.isin(np.arange(16), [10, 11]), (2, 1))
    head = ijepa.predictor(**config.predictor, grid=grid, encoder=encoder)

    def start():
        f, _ = ijepa.init(encoder, jax.random.key(1), images)
        where, tokens = np.zeros((2, 1), np.int32), np.zeros((2, 1, encoder.dim), np.float32)
        g, _ = ijepa.init(head, jax.random.key(2), tokens, where, where, np.ones((2, 2), bool))
        return f, g

    @partial(jax.jit, static_argnums=(0, 1))
    def say(kept, asked, f, g):
        where, at = mask_to_indices(context, kept), mask_to_indices(target, asked)
        seen = jnp.take_along_axis(context, where, axis=1)
        valid = jnp.take_along_axis(target, at, axis=1)
        tokens, _ = ijepa.apply(encoder, f, {}, images, train=False, keep_ids=where, valid=seen)
        both = jnp.concatenate([seen, valid], axis=1)
        said, _ = ijepa.apply(head, g, {}, tokens, where, at, both, train=False)
        return tokens[:, :3], said[:, :2]

    rng = np.random.default_rng(1)  # compiling the initial draws takes longer than all the rest

    def draw(leaf):
        fan_in = leaf.shape[0] if leaf.ndim > 1 else 1
        return np.float32(rng.normal(size=leaf.shape) / fan_in**0.5)

    params = jax.tree.map(draw, jax.eval_shape(start))
    for alone, filled in zip(say(3, 2, *params), say(7, 5, *params), strict=True):
        np.testing.assert_allclose(filled, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_targets": "0"}, "config.num_targets=0"),
        ({"target_area": "(0.2, 0.15)"}, "config.target_area"),
        ({"target_area": "(0.5, 1.5)"}, "at most 1"),
        ({"target_aspect": "(0.0, 1.5)"}, "config.target_aspect"),
        ({"context_area": "(-0.5, 1.0)"}, "config.context_area"),
        ({"min_context_patches": "4"}, "try 3"),
        ({"min_context_patches": "-1"}, "config.min_context_patches=-1"),
    ],
)
def test_wrong_values_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        load_method(Config(load(TINY, changes)), image_info())
