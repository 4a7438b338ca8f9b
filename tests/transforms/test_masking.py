"""Masks: exactly the stated number of patches, and shapes as the papers describe them."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from conftest import make_mesh
from hypothesis import given, settings
from hypothesis import strategies as st

from jssl.config import Config, UserError, load
from jssl.nn import masked_image
from jssl.nn.masked_image import num_masked
from jssl.training.setup import setup_run
from jssl.transforms import masking


@jax.jit
def blocks_and_places(seed, count):
    """A mask of `count` patches, and all places, those of the mask first."""
    mask = masking.block_mask(
        jax.random.key(seed), 6, 8, count, area=(4.0, 16.0), aspect=(0.3, 1 / 0.3)
    )
    return mask, masking.mask_to_indices(mask, 64)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 63))
def test_blocks_cover_exactly_so_many(seed, count):
    mask, at = map(np.asarray, blocks_and_places(np.uint32(seed), count))
    assert mask.shape == (6, 64) and (mask.sum(1) == count).all()
    for row in range(6):
        np.testing.assert_array_equal(at[row, :count], np.flatnonzero(mask[row]))


def neighbors(mask, grid):
    """How many of the 4-neighbors of a hidden patch are hidden too, on average."""
    m = np.pad(np.asarray(mask).reshape(-1, grid, grid), ((0, 0), (1, 1), (1, 1)))
    around = m[:, :-2, 1:-1] * 1 + m[:, 2:, 1:-1] + m[:, 1:-1, :-2] + m[:, 1:-1, 2:]
    return around[m[:, 1:-1, 1:-1]].mean()


def test_blocks_are_blocks():
    """Hidden patches of BEiT's masks lie together; uniformly drawn ones do not."""
    given = dict(area=(16.0, 75.0), aspect=(0.3, 1 / 0.3))

    @jax.jit
    def draw(key, u):
        return masking.block_mask(key, 200, 14, 75, **given), masking.lowest_k(u, 75)

    u = np.random.default_rng(1).random((200, 196), np.float32)
    blocks, alone = draw(jax.random.key(0), u)
    assert neighbors(blocks, 14) > 2.85 > 2 > neighbors(alone, 14)
    holes = [np.pad(m, 1, constant_values=True) for m in np.asarray(blocks).reshape(-1, 14, 14)]

    def around(m):
        return m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]

    lone = np.mean([(around(m) & ~m[1:-1, 1:-1]).sum() for m in holes])
    assert lone < 0.1, "the last block is cut, not thinned"
    middle = np.asarray(blocks).reshape(-1, 14, 14).mean(0)
    assert 0.01 < middle.min() and middle.max() < 0.8, "no place is left out, and none is always"


def test_every_image_has_its_own_number():
    count = np.array([0, 3, 16])
    given = dict(batch=3, grid=4, area=(2.0, 4.0), aspect=(0.5, 2.0))
    mask = jax.jit(partial(masking.block_mask, **given))(jax.random.key(0), count=count)
    np.testing.assert_array_equal(np.asarray(mask).sum(1), count)


@pytest.mark.parametrize(
    ("unit", "ratio", "hidden"),
    [(2, 0.6, 30), (1, 0.6, 118), (7, 0.5, 2), (2, 30 / 49, 30), (7, 0.51, 3)],
)
def test_simmims_squares(unit, ratio, hidden):
    """data_simmim.py:35 takes the ceiling."""
    given = dict(batch=50, grid=14, unit=unit, ratio=ratio)
    mask = np.asarray(jax.jit(partial(masking.grouped_mask, **given))(jax.random.key(0)))
    assert (mask.sum(1) == hidden * unit**2).all()
    squares = mask.reshape(50, 14 // unit, unit, 14 // unit, unit).mean((2, 4))
    assert set(np.unique(squares)) <= {0.0, 1.0}, "a square is hidden as a whole"
    np.testing.assert_allclose(mask.mean(), hidden * unit**2 / 196, rtol=1e-6)


def test_boxes_are_rectangles_of_the_stated_area_and_aspect():
    given = dict(shape=(400,), grid=14, area=(29.4, 39.2), aspect=(0.75, 1.5))
    found = jax.jit(partial(masking.random_rectangles, **given))(jax.random.key(0))
    areas, ratios = [], []
    for box in np.asarray(found).reshape(-1, 14, 14):
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns), "a rectangle without holes"
        assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
        areas.append(box.sum())
        ratios.append(len(rows) / len(columns))
    assert 25 <= min(areas) and max(areas) <= 44 and 0.5 < min(ratios) and max(ratios) < 1.9
    assert len({tuple(box.tolist()) for box in np.asarray(found)}) > 200


def test_places_pads_with_what_is_not_there():
    mask = np.array([[False, True, False, True], [False, False, False, True]])
    places = jax.jit(masking.mask_to_indices, static_argnums=1)(mask, 2)
    np.testing.assert_array_equal(places, [[1, 3], [3, 0]])


def test_share():
    assert num_masked(0.4, 196) == 78 and num_masked(0.6, 16) == 10


def test_a_ratio_that_hides_nothing_is_refused():
    wrong = (("simmim", 0.0), ("simmim", 0.95), ("simmim", 1.5), ("mae", 0.0), ("beit", 1.0))
    for name, ratio in wrong:
        config = Config(load(f"configs/{name}_imagenette.py:tiny", {"mask_ratio": str(ratio)}))
        with pytest.raises(UserError, match=f"mask_ratio={ratio}"):
            setup_run(config)


@cache
def started(name):
    """(run, state at step 0) of a tiny recipe."""
    run = setup_run(Config(load(f"configs/{name}_imagenette.py:tiny")), make_mesh(1))
    return run, run.init()


@pytest.mark.parametrize("name", ["mae", "simmim", "beit", "data2vec", "ijepa", "ibot"])
def test_pictures_of_every_masked_method(name):
    """original | masked | reconstruction: the original is the view of evaluation, what is seen is
    the same in all three, and what is not is gray in the middle and something else on the right."""
    run, state = started(name)

    @jax.jit
    def draw(state, batch, key):
        return run.method.render(state, batch, key), masked_image.eval_view(run.config)(batch)

    rendered, view = draw(state, run.example, jax.random.key(0))
    panel = rendered["masked"]
    assert panel.captions == ("original", "masked", "predicted")
    encoder = masked_image.vit_from_config(run.config)
    mean, std = (np.array(run.config.augment[key]) for key in ("mean", "std"))
    original, masked, rebuilt = (np.asarray(images) for images in panel.images)
    np.testing.assert_allclose(original, np.asarray(view) * std + mean, atol=1e-5)
    gray = (np.abs(masked - mean) < 1e-5).all(-1)
    seen = ~gray
    np.testing.assert_allclose(masked[seen], original[seen], atol=1e-5)
    np.testing.assert_allclose(rebuilt[seen], original[seen], atol=1e-5)
    grid, patch = masked_image.grid_side(run.config, encoder), encoder.patch
    hidden = gray.reshape(2, grid, patch, grid, patch).all((2, 4))
    assert 0 < hidden.mean() < 1
    assert np.abs(rebuilt - masked)[gray].max() > 0.01 and np.isfinite(rebuilt).all()


def test_lookup_finds_the_patch_of_the_nearest_feature():
    rng = np.random.default_rng(0)
    told, patches = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 4))
    order = np.array([[[0, 2], [1, 1], [0, 0]], [[1, 0], [0, 1], [1, 2]]])
    said = told[order[..., 0], order[..., 1]] + 0.01 * rng.normal(size=(2, 3, 5))
    found = jax.jit(masked_image.nearest_patches)(*map(np.float32, (said, told, patches)))
    np.testing.assert_allclose(found, patches[order[..., 0], order[..., 1]], rtol=1e-6)


@pytest.mark.parametrize("name", ["beit", "data2vec", "simmim", "ibot", "ijepa"])
def test_tokens_and_heads_start_as_their_authors_do(name):
    """BEiT, data2vec: cut at .02; SimMIM's linear layer as PyTorch's, with its bias; iBOT's mask
    token at zero; I-JEPA's predictor and encoder from N(0, .02)."""
    _, state = started(name)
    params = jax.tree.map(np.asarray, state.params)
    if name == "ijepa":
        kernels = [
            params["predictor"]["embed"]["kernel"],
            params["encoder"]["patch_embed"]["kernel"],
        ]
        assert [np.std(x) for x in kernels] == pytest.approx([0.02, 0.02], rel=0.1)
        return
    token = params["mask_token"]
    if name == "ibot":
        assert not token.any()
        return
    assert 0.01 < np.abs(token).max() <= 0.02
    kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    bound = len(kernel) ** -0.5 if name == "simmim" else 0.02
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert (np.abs(bias).max() > 0.9 * bound) == (name == "simmim")
