"""jssl from Python: a recipe by name, two runs in one process, and an encoder that embeds."""

import logging

import numpy as np
import pytest
from PIL import Image

import jssl
from jssl.config import load
from jssl.data.sources import digits

FEW = {"steps": 2, "eval__every": 0, "checkpoint__every": 0, "log__tensorboard": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of two runs with different seeds, trained one after the other."""
    folder = tmp_path_factory.mktemp("python")
    results = []
    for seed in range(2):
        config = jssl.recipe("simclr_digits:tiny", seed=seed, **FEW)
        results.append(jssl.train(config, folder / str(seed)))
    assert results[0]["params_sha256"] != results[1]["params_sha256"]
    return folder


def test_a_recipe_by_name_is_the_file():
    assert (
        jssl.recipe("simclr_digits:tiny").to_dict()
        == load("configs/simclr_digits.py:tiny").to_dict()
    )
    changed = jssl.recipe("simclr_cifar10", optim__lr=0.5, steps="3 epochs", head__features=(8, 4))
    assert (changed.optim.lr, changed.steps, changed.head.features) == (0.5, "3 epochs", (8, 4))
    with pytest.raises(jssl.UserError, match="did you mean 'simclr_cifar10'"):
        jssl.recipe("simclr_cifar")
    with pytest.raises(jssl.UserError, match="config.optim.lrr is not a key; did you mean 'lr'"):
        jssl.recipe("simclr_cifar10", optim__lrr=0.5)


def test_loading_warns_of_nothing(runs, caplog):
    caplog.set_level(logging.WARNING, "absl")
    jssl.load(runs / "0")
    assert caplog.messages == []


def test_an_image_in_every_form_has_the_same_features(runs, tmp_path):
    encoder = jssl.load(runs / "0")
    images = digits.load("test")[0][:5]
    z = encoder.embed(images)
    assert z.shape == (5, encoder.dim) and z.dtype == np.float32 and np.isfinite(z).all()
    assert encoder.step == 2 and encoder.config.method == "simclr"
    assert np.abs(z[0] - z[1]).max() > 0, "they depend on the image"
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    forms = [images[0], Image.open(paths[1]), paths[2], str(paths[3]), images[4]]
    np.testing.assert_allclose(encoder.embed(forms), z, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(paths[2]), z[2:3], atol=1e-5)
    assert encoder.embed([]).shape == (0, encoder.dim)
    other = jssl.load(runs / "1").embed(images)
    assert np.abs(other - z).max() > 1e-3, "each workdir has its own encoder"


def test_gray_large_and_transparent_images(runs):
    encoder = jssl.load(runs / "0", batch_size=2)
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (40, 90), np.uint8)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    rgba = np.concatenate([rgb, rng.integers(0, 256, (40, 90, 1), np.uint8)], axis=2)
    z = encoder.embed([gray, gray[..., None], rgb, rgba])
    np.testing.assert_allclose(z, np.tile(z[:1], (4, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([np.zeros((4, 4, 3), np.float32)], "image 0 cannot be read .*float32; use uint8"),
        ([np.zeros((4, 4, 2), np.uint8)], r"its shape is \(4, 4, 2\)"),
        (np.zeros((4, 4), np.uint8), r"images of shape \(4, 4\) are none"),
        ("no such file.png", "no such file.png cannot be read .*no such file"),
    ],
)
def test_what_is_no_image(runs, examples, words):
    with pytest.raises(jssl.UserError, match=words):
        jssl.load(runs / "0").embed(examples)


def test_texts(tmp_path):
    config = jssl.recipe("bert_small_books:tiny", **FEW)
    jssl.train(config, tmp_path / "bert")
    encoder = jssl.load(tmp_path / "bert")
    z = encoder.embed(["It was the best of times", "It was the worst of times", "It was " * 99])
    assert z.shape == (3, encoder.dim) and np.abs(z[0] - z[1]).max() > 0
    np.testing.assert_allclose(encoder.embed("It was the best of times"), z[:1], atol=1e-5)
    with pytest.raises(jssl.UserError, match="text 1 is empty"):
        encoder.embed(["a", ""])


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(jssl.UserError, match="holds no run"):
        jssl.load(tmp_path)
