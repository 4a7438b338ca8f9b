"""Pairs, multi-crop and the centered view: order, sizes, which section makes which view."""

import jax
import numpy as np
import pytest

from jssl.config import Config, UserError, load
from jssl.transforms import views

STILL = {
    "augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)",
    "augment.flip_prob": "0",
    "augment.jitter_prob": "0", "augment.gray_prob": "0",
}  # fmt: skip


def config_of(recipe, **changes):
    tree = load(f"configs/{recipe}_cifar10.py:tiny", STILL)
    with tree.unlocked():
        tree.update(changes)
    return Config(tree)


def batch(n=3):
    image = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    return {"image": image, "size": np.full((n, 2), 32, np.int32)}


def pixels(config, x):
    """Back to 0..255."""
    look = config.augment
    return (np.asarray(x, np.float32) * np.array(look.std) + np.array(look.mean)) * 255


def test_the_views_of_an_image_are_neighbors():
    config = config_of("simclr")
    x = jax.jit(views.two_views(config))(jax.random.key(0), batch())
    assert x.shape == (6, 32, 32, 3)
    image = batch()["image"].astype(np.float32)
    np.testing.assert_allclose(pixels(config, x), np.repeat(image, 2, axis=0), atol=0.05)


def test_what_the_second_section_changes_is_in_the_second_view():
    config = config_of("byol", augment_second_view={"solarize_prob": 1.0})
    x = pixels(config, jax.jit(views.two_views(config))(jax.random.key(0), batch()))
    image = batch()["image"].astype(np.float32)
    np.testing.assert_allclose(x[0::2], image, atol=0.05)
    np.testing.assert_allclose(x[1::2], np.where(image >= 128, 255 - image, image), atol=0.05)


def test_local_crops_are_smaller_and_their_own():
    config = config_of("swav", local={"count": 3, "size": 16, "crop_scale": (0.1, 0.3)})
    found = jax.jit(views.multi_crop(config))(jax.random.key(0), batch())
    assert found["global"].shape == (6, 32, 32, 3) and found["local"].shape == (9, 16, 16, 3)
    means = np.asarray(found["local"]).mean((1, 2, 3))
    assert len(np.unique(means)) == 9, "each crop is drawn by itself"
    alone = views.multi_crop(config_of("swav"))
    assert set(jax.eval_shape(alone, jax.random.key(0), batch())) == {"global"}
    with pytest.raises(UserError, match="config.local.count=-1"):
        views.multi_crop(config_of("swav", local={"count": -1}))


def test_the_centered_view():
    config = config_of("simclr")
    x = jax.jit(views.eval_view(config))(batch())
    np.testing.assert_allclose(pixels(config, x), batch()["image"], atol=0.05)
