"""What a method's step does beyond the laws."""

import jax
import numpy as np
import pytest
from conftest import make_mesh

from jssl import methods
from jssl.config import Config, UserError, load
from jssl.run import keys, prepare

STILL = {  # views that are the image itself
    "augment.crop_scale": "(1.0, 1.0)",
    "augment.crop_ratio": "(1.0, 1.0)",
    "augment.jitter": "0",
    "augment.gray": "0",
    "augment.solarize": "0",
}


def test_simclr_pairs_the_two_views_of_an_image():
    """Two equal views are each other's nearest, whatever the weights; wrong pairs are not."""
    config = Config(load("configs/simclr_digits.py:tiny", STILL))
    run = prepare(config, make_mesh(1))
    batch = run.data.source.read(range(16))
    batch.pop("damaged")
    _, metrics = jax.jit(run.method.train_step)(run.init(), batch, keys(config)[1])
    assert metrics["contrast_top1"] == 1.0


def test_byol_target_is_the_average_and_gets_no_gradient():
    """After two steps: the average of the first two weights, and no optimizer slot of its own."""
    config = Config(load("configs/byol_cifar10.py:tiny", {"ema": "0.9", "ema_final": "0.9"}))
    run = prepare(config, make_mesh(1))
    batch = run.data.source.read(range(16))
    batch.pop("damaged")
    step, rng = jax.jit(run.method.train_step), keys(config)[1]
    first = run.init()
    second, _ = step(first, batch, rng)
    third, _ = step(second, batch, rng)
    for name in ("encoder", "head"):
        wanted = jax.tree.map(
            lambda a, b: 0.9 * a + 0.1 * b, first.params[name], second.params[name]
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            third.buffers["target"][name],
            wanted,
        )
    assert "predictor" not in third.buffers["target"]


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_a_predictor_as_wide_as_the_head(name):
    config = Config(load(f"configs/{name}_cifar10.py:tiny", {"head.features": "(16, 4)"}))
    with pytest.raises(UserError, match="ends in 8 and config.head.features in 4"):
        methods.load(config)
