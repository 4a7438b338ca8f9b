"""What a method's step does beyond the laws."""

import jax
from conftest import make_mesh

from jssl.config import Config, load
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
