"""BigGAN and SS-GAN: what the steps of the two players compute, and what the average samples.

The networks are toys, which compile fast; tests/nn/test_gan_networks.py tests those of the paper.
"""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_info

from jssl.config import Config, UserError, load
from jssl.core import TrainState
from jssl.methods import biggan
from jssl.nn import gan as gan_module
from jssl.nn.spectral_norm import INITIALIZERS, Dense
from jssl.transforms.pictures import to_pixels

SIDE = 32


def layer(features, train, spectral=True):
    return Dense(features, train, spectral, INITIALIZERS["xavier"], jnp.float32)


class Encoder(linen.Module):
    """The means of the four quarters of an image, of each color, through a layer."""

    dim: int = 6

    @linen.compact
    def __call__(self, images, train):
        x = images.reshape(len(images), 2, SIDE // 2, 2, SIDE // 2, -1).mean((2, 4))
        return linen.relu(layer(6, train)(x.reshape(len(x), -1)))


class Head(linen.Module):
    """A score, a term of the class, and the logits of the turns."""

    @linen.compact
    def __call__(self, features, labels, train):
        score = layer(1, train)(features)[:, 0]
        score = score if labels is None else score + 0.1 * labels
        return {"score": score, "rotation": layer(4, train)(features)}


class Generator(linen.Module):
    """One color for each image."""

    @linen.compact
    def __call__(self, z, labels, train):
        color = layer(3, train, spectral=False)(z)
        color = color if labels is None else color + labels[:, None]
        return jnp.broadcast_to(jnp.tanh(color)[:, None, None], (len(z), SIDE, SIDE, 3))


@pytest.fixture
def build(monkeypatch):
    """build(**keys) -> (the players of biggan with the toy networks, Gan, config)."""

    def make(**keys):
        words = {key.replace("__", "."): str(value) for key, value in keys.items()}
        words["log.rank_every"] = "0"  # its eigenvalues take long to compile
        config = Config(load("configs/biggan_cifar10.py:tiny", words))
        classes = config.num_classes if config.labels else 0
        toy = gan_module.Gan(
            Encoder(), Head(), Generator(), 4, classes, config.ema_decay, config.ema_start
        )
        monkeypatch.setattr(biggan.biggan, "from_config", lambda config, info: toy)
        return biggan.build(config, image_info()), toy, config

    return make


def batch_of(n, label=0):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)
    size = np.full((n, 2), SIDE, np.int32)
    return {"image": image, "size": size, "label": np.full(n, label, np.int32)}


def start(players, n=8):
    params, buffers = players.init(jax.random.key(0), batch_of(n))
    return TrainState(jnp.int32(0), params, None, buffers)


def outputs(gan, state, images):
    """The head's outputs for one image after the other, in evaluation mode."""

    @jax.jit
    def one(image):
        x = gan.embed(state.params, state.buffers, image[None])
        variables = {"params": state.params["head"]}
        variables["batch_stats"] = state.buffers["stats"]["head"]
        return gan.head.apply(variables, x, None, train=False)

    rows = [one(image) for image in np.asarray(images)]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def entropy_of_turns(gan, state, images):
    """Mean cross-entropy of the number of quarter turns of every image, turned by NumPy."""
    nll = []
    for turn in range(4):
        turned = np.rot90(np.asarray(images), turn, axes=(1, 2))
        logits = outputs(gan, state, turned)["rotation"]
        nll.append(np.log(np.exp(logits).sum(1)) - logits[:, turn])
    return np.mean(nll)


@pytest.mark.parametrize("every", [0, 2])
def test_the_loss_of_the_discriminator(build, every):
    """Hinge on real and fake images, and the turns of every n-th real image, in NumPy."""
    players, gan, config = build(rotate_every=every, rotation_weight=3.0)
    state = start(players)
    batch = batch_of(8)
    rng = jax.random.key(1)
    own = {key: state.params[key] for key in ("encoder", "head")}
    loss = jax.jit(players.discriminator_loss)
    value, (buffers, metrics) = loss(own, state, batch, rng)
    real = batch["image"] / np.float32(127.5) - 1  # a whole image, without a flip
    (fake, _), _ = gan.generate(state.params, state.buffers, jax.random.split(rng)[1], 8)
    scores = {name: outputs(gan, state, x)["score"] for name, x in (("r", real), ("f", fake))}
    wanted = np.maximum(0, 1 - scores["r"]).mean() + np.maximum(0, 1 + scores["f"]).mean()
    if every:
        wanted += 3 * entropy_of_turns(gan, state, real[::every])
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    np.testing.assert_allclose(metrics["score_real"], scores["r"].mean(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["score_fake"], scores["f"].mean(), rtol=1e-3, atol=1e-4)
    assert ("rotation_top1" in metrics) == bool(every)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), buffers["stats"], state.buffers["stats"]
    )
    assert all(jax.tree.leaves(moved)), "each pass of training takes one step of the power method"


@pytest.mark.parametrize("every", [0, 2])
def test_the_loss_of_the_generator(build, every):
    players, gan, config = build(
        rotate_every=every, rotation_weight_generator=0.5, orthogonal_weight=0.1
    )
    state = start(players)
    rng = jax.random.key(2)
    own = {"generator": state.params["generator"]}
    value, _ = jax.jit(players.generator_loss)(own, state, batch_of(8), rng)
    (fake, _), _ = gan.generate(state.params, state.buffers, rng, 8)
    wanted = -outputs(gan, state, fake)["score"].mean()
    kernel = np.asarray(own["generator"]["Dense_0"]["kernel"])
    gram = kernel.T @ kernel
    wanted += 0.1 * (np.square(gram).sum() - np.square(np.diag(gram)).sum())
    if every:
        wanted += 0.5 * entropy_of_turns(gan, state, fake[::every])
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


def test_conditional_scores_and_images_depend_on_the_class(build):
    players, gan, config = build(labels=True, rotate_every=2)
    state = start(players)
    own = {key: state.params[key] for key in ("encoder", "head")}
    loss = jax.jit(players.discriminator_loss)
    scores = [loss(own, state, batch_of(8, label), jax.random.key(0))[1][1] for label in (0, 3)]
    np.testing.assert_allclose(scores[1]["score_real"] - scores[0]["score_real"], 0.3, atol=1e-5)
    assert scores[1]["score_fake"] == scores[0]["score_fake"], "its classes are drawn"
    pictures = players.render(state.params, state.buffers, batch_of(3), jax.random.key(0))
    assert pictures["samples"].captions == tuple(f"class {i}" for i in range(8))
    columns = [np.asarray(x).mean() for x in pictures["samples"].images]
    assert columns[-1] > columns[0], "the toy adds the class to the color"


def test_the_average_is_a_copy_until_it_begins(build):
    players, gan, config = build(ema_start=3, ema_decay=0.75)
    state = start(players)
    moved = jax.tree.map(lambda x: x + 1, state.params["generator"])
    state = state.replace(params=state.params | {"generator": moved})
    for step, share in ((0, 1.0), (2, 1.0), (3, 0.25)):
        new = players.before_update(state.replace(step=jnp.int32(step)), jax.random.key(0))
        before = state.buffers["ema"]["params"]["Dense_0"]["kernel"]
        average = new.buffers["ema"]["params"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(average - before, share, rtol=1e-5)


def test_samples_are_of_the_average(build):
    """They depend on the key and on nothing else, are pixels in 0..1, and follow the buffers."""
    players, gan, config = build()
    state = start(players)
    sample = players.sample(state.params, state.buffers, jax.random.key(3), 5)
    z, _ = gan.draw(jax.random.key(3), 5)
    wanted = to_pixels(config, gan.sample(state.buffers, z, None))
    assert sample.shape == (5, SIDE, SIDE, 3) and 0 <= sample.min() < sample.max() <= 1
    np.testing.assert_array_equal(sample, wanted)
    other = players.sample({}, state.buffers, jax.random.key(4), 5)
    assert not np.allclose(other, sample)


def test_truncation_bounds_latents_and_keeps_their_shape(build):
    _, gan, _ = build()
    z, _ = gan.draw(jax.random.key(0), 4_000)
    assert np.abs(z).max() > 2 and z.std() == pytest.approx(1, abs=0.02)
    z, _ = gan.draw(jax.random.key(0), 4_000, 0.5)
    assert 0.49 < np.abs(z).max() <= 0.5
    assert z.std() == pytest.approx(0.285, abs=0.005)  # nearly uniform: 0.5 / sqrt(3) is .289


def test_an_interpolation_goes_from_one_sample_to_another(build):
    players, gan, config = build()
    state = start(players)
    panel = players.render(state.params, state.buffers, batch_of(2), jax.random.key(0))
    line = panel["interpolations"]
    assert line.captions[0] == "0%" and line.captions[-1] == "100%" and len(line.images) == 8
    assert all(image.shape == (2, SIDE, SIDE, 3) for image in line.images)
    z, _ = gan.draw(jax.random.key(0), 4)
    ends = to_pixels(config, gan.sample(state.buffers, z, None))
    np.testing.assert_allclose(line.images[0], ends[:2], atol=1e-6)
    np.testing.assert_allclose(line.images[-1], ends[2:], atol=1e-6)
    middle = to_pixels(config, gan.sample(state.buffers, z[:2] + 3 / 7 * (z[2:] - z[:2]), None))
    np.testing.assert_allclose(line.images[3], middle, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"augment.mean": "(0.4,)"}, r"config.augment.mean=\(0.4,\).*set it to \(0.5,\)"),
        ({"rotate_every": "3"}, "config.rotate_every=3: must divide the 8 images of a step"),
        ({"augment.size": "64"}, "config.augment.size=64: biggan_32 is for 32; set it to 32"),
        ({"model.name": "resnet18"}, "config.model.name='resnet18': no discriminator; use biggan"),
        ({"generator.attention": "5"}, "config.generator.attention=5: no map has it"),
    ],
)
def test_what_does_not_fit_is_named(words, said):
    config = Config(load("configs/biggan_cifar10.py:tiny", words))
    with pytest.raises(UserError, match=said):
        biggan.build(config, image_info())


def test_labels_need_labels():
    info = image_info()
    fields = {key: value for key, value in info.fields.items() if key != "label"}
    config = Config(load("configs/biggan_cifar10.py:conditional+tiny"))
    with pytest.raises(UserError, match="config.labels=True: the data has no labels"):
        biggan.build(config, info._replace(fields=fields))
