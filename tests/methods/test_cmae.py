"""CMAE: the shifted views, and who sees what."""

import jax
import numpy as np
from conftest import make_mesh

from jssl.config import Config, load
from jssl.training.setup import setup_run
from jssl.transforms.views import shifted_views

RECIPE = "configs/cmae_imagenette.py:tiny"
PLAIN = {f"augment_second_view.{key}": "0" for key in ("jitter_prob", "gray_prob", "blur_prob")}
PLAIN |= {"augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)"}
PLAIN |= {"augment.flip_prob": "0", "augment.mean": "(0.5,)", "augment.std": "(0.25,)"}


def test_the_second_view_is_the_first_crop_shifted_by_whole_pixels():
    config = Config(load(RECIPE, PLAIN | {"augment.size": "16", "shift": "4"}))
    image = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), np.uint8)
    batch = {"image": image, "size": np.full((6, 2), 20, np.int32)}
    first, second = jax.jit(shifted_views(config, 4))(jax.random.key(1), batch)
    pixels = np.round((np.asarray(second) * 0.25 + 0.5) * 255)
    np.testing.assert_allclose((np.asarray(first) * 0.25 + 0.5) * 255, image[:, :16, :16], atol=0.1)
    found = []
    for whole, window in zip(image, pixels, strict=True):
        places = [(r, c) for r in range(5) for c in range(5)]
        equal = [(r, c) for r, c in places if (whole[r : r + 16, c : c + 16] == window).all()]
        assert len(equal) == 1
        found += equal
    assert len(set(found)) > 2


def test_both_losses_count_and_the_keys_get_no_gradient():
    run = setup_run(Config(load(RECIPE, {"optim.warmup_steps": "0"})), make_mesh(1))
    state = run.init()
    batch = run.data.source.read(np.arange(16))
    batch.pop("damaged")
    new, metrics = jax.jit(run.method.train_step)(state, batch, jax.random.key(0))
    assert set(new.params) == {"encoder", "decoder", "feature_decoder", "head", "predictor"}
    assert set(new.buffers["teacher"]) == {"encoder", "head"}
    wanted = metrics["pixel_loss"] + 2 * 0.07 * metrics["contrastive_loss"]
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    for name in ("decoder", "feature_decoder", "predictor"):  # both losses reach their networks
        pairs = (jax.tree.leaves(tree.params[name]) for tree in (new, state))
        assert any((a != b).any() for a, b in zip(*pairs, strict=True)), name
    for a, b in zip(*(jax.tree.leaves(s.buffers["teacher"]) for s in (new, state)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # the average of step 0: the first weights
    picture = run.method.render(state, batch, jax.random.key(0))["masked"]
    assert picture.captions == ("original", "masked", "predicted")
