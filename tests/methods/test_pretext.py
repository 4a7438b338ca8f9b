"""Pretext tasks: which answer belongs to which input, the heads in NumPy, and what people see.

The encoder is one linear layer, and the views are the images, so that all of a loss is written out
in NumPy. A head that always gives the same answers shows whether they belong to the inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_info

from jssl import methods
from jssl.config import Config, UserError, load
from jssl.core import TrainState
from jssl.nn import shift_decoder
from jssl.nn.apply import apply, init
from jssl.ops import patchify
from jssl.transforms import permutations, pretext

RNG = jax.random.key(5)
IMAGES = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
BATCH = {"image": IMAGES, "size": np.full((8, 2), 32, np.int32)}
RING = [0, 1, 2, 3, 5, 6, 7, 8]  # the neighbors of the center of 3 x 3 tiles


class Linear(nn.Module):
    """An encoder: one layer for an image, or for each of its patches if `patch` is above 0."""

    patch: int = 0
    dim: int = 5
    num_prefix: int = 0

    @nn.compact
    def __call__(self, images, train):
        rows = patchify(images, self.patch) if self.patch else images.reshape(len(images), -1)
        return nn.Dense(self.dim, name="layer")(rows)

    def features(self, output):
        return output.mean(1) if output.ndim == 3 else output


class Answers(nn.Module):
    """A head whose logits are the same rows for every image, ten for yes and zero for no."""

    rows: tuple

    @nn.compact
    def __call__(self, x, train):
        rows = jnp.array(self.rows, jnp.float32)
        return 10 * jnp.tile(rows, (len(x) // len(rows), 1)) + 0 * x.sum()


def answers(table):
    """For `heads.classifier`: the head that gives these answers."""
    return lambda config, classes: Answers(tuple(map(tuple, np.asarray(table).tolist())))


@pytest.fixture(autouse=True)
def simple(monkeypatch):
    """A linear encoder, and images as views."""
    monkeypatch.setattr("jssl.nn.heads.nn_encoder", lambda section: Linear())
    module = "jssl.nn.masked_image"
    monkeypatch.setattr(f"{module}.vit_from_config", lambda config: Linear(config.model.patch))
    monkeypatch.setattr("jssl.methods.shifted_image.image_encoder", lambda section, name: Linear(8))
    views = {
        "train_view": lambda config: lambda rng, batch: batch["image"],
        "eval_view": lambda config: lambda batch: batch["image"],
    }
    users = ("rotation", "jigsaw", "relative_patch", "shifted_image")
    for owner in (module, *(f"jssl.methods.{name}" for name in users)):
        for name, view in views.items():
            monkeypatch.setattr(f"{owner}.{name}", view)


def result_of(recipe, **changes):
    """(config, parameters, loss, metrics, panel of the same random values) of the first state."""
    words = {key.replace("__", "."): value for key, value in changes.items()}
    config = Config(load(f"configs/{recipe}.py:tiny", {"log.rank_every": "0"} | words))
    objective = methods.load(config, image_info())

    @jax.jit
    def everything(rng):
        params, buffers = objective.init(jax.random.key(0), BATCH)
        state = TrainState(jnp.int32(0), params, {}, buffers)
        value, (_, metrics) = objective.loss(params, state, BATCH, rng)
        (panel,) = objective.render(params, buffers, BATCH, jax.random.split(rng)[0]).values()
        return params, value, metrics, panel

    params, value, metrics, panel = jax.device_get(everything(RNG))
    columns = dict(zip(panel.captions, panel.images, strict=True))
    return config, params, value, metrics, columns


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def dense(layer, x):
    return x @ np.float64(layer["kernel"]) + np.float64(layer.get("bias", 0))


def encoded(params, images):
    return dense(params["encoder"]["layer"], images.reshape(len(images), -1))


def batch_normalized(layer, x):
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return x * np.float64(layer["scale"]) + np.float64(layer["bias"])


def check_cross_entropy(log_p, answer, value, top1):
    np.testing.assert_allclose(value, -log_p[np.arange(len(answer)), answer].mean(), rtol=1e-4)
    np.testing.assert_allclose(top1, np.mean(log_p.argmax(1) == answer), rtol=1e-6)


def tiles_of(images, tile):
    """[B, g t, g t, C] -> [B, g g, t, t, C]"""
    corners = range(0, images.shape[1], tile)
    tiles = [images[:, y : y + tile, x : x + tile] for y in corners for x in corners]
    return np.stack(tiles, axis=1)


def normalized(tiles):
    deviation = np.sqrt(tiles.var((2, 3), keepdims=True) + 1e-4)
    return (tiles - tiles.mean((2, 3), keepdims=True)) / deviation


def order_of(panel, tile):
    """[B, T]: where each of the shuffled tiles of a panel comes from."""
    source = tiles_of(panel["tiles in place"], tile)
    shuffled = tiles_of(panel["shuffled"], tile)
    distance = np.abs(shuffled[:, :, None] - source[:, None]).sum((3, 4, 5))
    assert (distance.min(2) == 0).all()
    return distance.argmin(2)


def test_rotation_is_equation_2():
    """-log p of the angle of each of the four copies of each image; copies are turned back by the
    angle that the network says."""
    config, params, value, metrics, panel = result_of("rotation_cifar10")
    copies = np.stack([np.rot90(image, k) for image in IMAGES for k in range(4)])
    log_p = log_softmax(dense(params["head"]["dense0"], encoded(params, copies)))
    angle = np.tile(np.arange(4), len(IMAGES))
    check_cross_entropy(log_p, angle, value, metrics["rotation_top1"])
    said = log_p.argmax(1).reshape(-1, 4)
    assert len(np.unique(said)) > 1
    upright = IMAGES * np.float32(config.augment.std) + np.float32(config.augment.mean)
    for k in range(4):
        turned = np.rot90(upright, k, axes=(1, 2))
        back = np.stack([np.rot90(x, -j) for x, j in zip(turned, said[:, k], strict=True)])
        np.testing.assert_allclose(panel[f"{90 * k} degrees"], turned, atol=1e-6)
        np.testing.assert_allclose(panel[f"{90 * k}, turned back"], back, atol=1e-6)


def test_jigsaw_names_the_permutation_of_the_tiles():
    """The network of figure 3: a layer for each tile, and one for all tiles in their order."""
    config, params, value, metrics, panel = result_of("jigsaw_cifar10")
    order = order_of(panel, config.tile)
    known = [tuple(row) for row in permutations.distant_permutations(4, 24)]
    answer = np.array([known.index(tuple(row)) for row in order])
    assert len(set(answer)) > 3
    pixels = (panel["shuffled"] - config.augment.mean) / config.augment.std
    x = normalized(tiles_of(pixels, config.tile)).reshape(32, -1)
    layers = params["patch_head"]
    each = batch_normalized(layers["bn0"], dense(layers["dense0"], encoded(params, x)))
    log_p = log_softmax(dense(params["head"]["dense0"], np.maximum(each, 0).reshape(8, -1)))
    check_cross_entropy(log_p, answer, value, metrics["jigsaw_top1"])


def test_a_solved_puzzle_is_the_image(monkeypatch):
    """The head names one permutation: it solves the puzzles that were made by it, and no other."""
    table = np.eye(6)[[4]]
    monkeypatch.setattr("jssl.methods.jigsaw.heads.classifier", answers(table))
    words = {"num_permutations": "6", "head__features": "(6,)"}
    config, _, _, metrics, panel = result_of("jigsaw_imagenet", **words)
    order = order_of(panel, config.tile)
    said = permutations.distant_permutations(9, 6)[4]
    is_solved = (order == said).all(1)
    assert 0 < is_solved.sum() < len(order)
    np.testing.assert_allclose(metrics["jigsaw_top1"], is_solved.mean(), rtol=1e-6)
    same = (panel["solved"] == panel["tiles in place"]).all((1, 2, 3))
    np.testing.assert_array_equal(same, is_solved)


def test_jigsaw_vit_tells_the_place_of_each_patch(monkeypatch):
    """A head that takes every patch to be where it is: right only for those that did not move."""
    monkeypatch.setattr("jssl.methods.jigsaw_vit.heads.classifier", answers(np.eye(4)))
    config, _, value, metrics, panel = result_of("jigsaw_vit_imagenette")
    order = order_of(panel, config.tile)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(4), (8, 1)))
    assert len(np.unique(order, axis=0)) > 4, "each image has its own order"
    np.testing.assert_array_equal(panel["likeliest tile of each place"], panel["shuffled"])
    log_p = np.tile(log_softmax(10 * np.eye(4)), (8, 1))
    check_cross_entropy(log_p, order.ravel(), value, metrics["jigsaw_top1"])


def test_jigsaw_vit_has_a_head_for_each_patch():
    config, params, value, metrics, panel = result_of("jigsaw_vit_imagenette")
    pixels = (panel["shuffled"] - config.augment.mean) / config.augment.std
    x = normalized(tiles_of(pixels, config.tile)).reshape(32, -1)
    layers = params["head"]
    hidden = np.maximum(dense(layers["dense0"], encoded(params, x)), 0)
    log_p = log_softmax(dense(layers["dense1"], hidden))
    order = order_of(panel, config.tile)
    check_cross_entropy(log_p, order.ravel(), value, metrics["jigsaw_top1"])


def test_relative_patch_is_the_place_of_each_neighbor():
    """Eight pairs of an image in reading order, and a head of two layers. The inputs have one
    channel of each tile."""
    config, params, value, metrics, panel = result_of("relative_patch_imagenette")
    x = (tiles_of(panel["inputs"], config.tile) - 0.5) * 6
    np.testing.assert_array_equal((x.std((2, 3)) > 0.5).sum(-1), 1)
    features = encoded(params, x.reshape(72, -1)).reshape(8, 9, -1)
    pairs = np.stack([np.r_[row[4], row[place]] for row in features for place in RING])
    layers = params["head"]
    hidden = batch_normalized(layers["bn0"], dense(layers["dense0"], pairs))
    log_p = log_softmax(dense(layers["dense1"], np.maximum(hidden, 0)))
    check_cross_entropy(log_p, np.tile(np.arange(8), 8), value, metrics["location_top1"])


@pytest.mark.parametrize("moved", [0, 1])
def test_neighbors_are_shown_where_the_head_puts_them(monkeypatch, moved):
    """Each neighbor at its place, or each at the next one. The inputs lack the axis from green to
    magenta."""
    table = np.roll(np.eye(8), moved, axis=1)
    monkeypatch.setattr("jssl.methods.relative_patch.heads.classifier", answers(table))
    config, _, _, metrics, panel = result_of("relative_patch_imagenette", color="project")
    assert metrics["location_top1"] == (moved == 0)
    source = tiles_of(panel["tiles in place"], config.tile)
    placed = tiles_of(panel["likeliest tile of each place"], config.tile)
    np.testing.assert_array_equal(placed[:, 4], source[:, 4])
    np.testing.assert_array_equal(placed[:, RING], np.roll(source[:, RING], moved, axis=1))
    axis = np.array([-1.0, 2.0, -1.0])
    x = normalized(source - (source @ axis / 6)[..., None] * axis)
    found = (tiles_of(panel["inputs"], config.tile) - 0.5) * 6
    np.testing.assert_allclose(found, x, atol=1e-4)


class Twos(nn.Module):
    """A decoder that predicts 2 everywhere."""

    @nn.compact
    def __call__(self, features, offset, train):
        return jnp.full((len(features), 24, 24, 3), 2.0) + 0 * features.sum()


def test_shifted_image_is_the_error_of_the_second_window(monkeypatch):
    monkeypatch.setattr(shift_decoder, "build", lambda dim, depth, window, channels, dtype: Twos())
    config, _, value, metrics, panel = result_of("shifted_image_cifar10")
    rng_windows = jax.random.split(jax.random.split(RNG)[0])[1]
    first, second, offset = map(np.asarray, pretext.shifted_windows(rng_windows, IMAGES, 24, 8))
    seen = np.zeros(second.shape[:3], bool)
    for mask, (dy, dx) in zip(seen, offset, strict=True):
        mask[max(0, -dy) : 24 - max(0, dy), max(0, -dx) : 24 - max(0, dx)] = True
    error = ((np.float64(second) - 2) ** 2).mean(-1)
    np.testing.assert_allclose(value, error.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mse_seen"], error[seen].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mse_new"], error[~seen].mean(), rtol=1e-5)
    wanted = (first, np.where(seen[..., None], second, 0), np.full(second.shape, 2.0), second)
    for found, x in zip(panel.values(), wanted, strict=True):
        pixels = x * np.array(config.augment.std) + config.augment.mean
        np.testing.assert_allclose(found, pixels, atol=1e-5)


def convolved(layer, x):
    """A 3x3 convolution with zeros around the map, x [B, H, W, C]."""
    kernel = np.float64(layer["kernel"])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    terms = [
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    ]
    return sum(terms) + np.float64(layer["bias"])


def test_the_decoder_of_shifted_image():
    """A code of the offset in each block, and a square of pixels at each position."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
    offset = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
    decoder = shift_decoder.build(dim=4, depth=2, window=6, channels=2, dtype="float32")

    @jax.jit
    def run(noise):
        params, _ = init(decoder, RNG, features, offset)
        params = jax.tree.map(lambda x: x + noise[: x.size].reshape(x.shape), params)
        return params, apply(decoder, params, {}, features, offset, train=True)[0]

    params, found = jax.device_get(run(rng.normal(size=500).astype(np.float32) / 10))
    code = np.maximum(dense(params["offset"], offset), 0)
    x = dense(params["embed"], features)
    for i in range(2):
        norm = params[f"norm{i}"]
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        y = convolved(params[f"conv{i}_a"], y * norm["scale"] + norm["bias"])
        y = np.maximum(y + dense(params[f"offset{i}"], code)[:, None, None], 0)
        x = x + convolved(params[f"conv{i}_b"], y)
    pixels = dense(params["pixels"], np.maximum(x, 0)).reshape(2, 3, 3, 2, 2, 2)
    wanted = pixels.transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 6, 2)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    with pytest.raises(UserError, match="config.window=7.*3 x 3.*try 6"):
        init(decoder.clone(window=7), RNG, features, offset)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("rotation_cifar10", {"head.features": "(7, 5)"}, r"=\(7, 5\): must end in 4.*\(7, 4\)"),
        ("jigsaw_cifar10", {"tile": "17"}, "config.tile=17: 2 x 2 tiles do not fit .*=32; try 12"),
        (
            "jigsaw_cifar10",
            {"num_permutations": "25"},
            "config.num_permutations=25: 4 tiles have 24.*set it to 24",
        ),
        ("jigsaw_vit_imagenette", {"tile": "4"}, "config.tile=4: differs from .*model.patch=12"),
        (
            "relative_patch_imagenette",
            {"data.channels": "1"},
            "config.color='drop': needs RGB.*set it to 'keep'",
        ),
        ("shifted_image_cifar10", {"max_shift": "9"}, "config.max_shift=9.*size=32; try 8"),
    ],
)
def test_wrong_values_are_named(recipe, words, message):
    with pytest.raises(UserError, match=message):
        methods.load(Config(load(f"configs/{recipe}.py:tiny", words)), image_info())
