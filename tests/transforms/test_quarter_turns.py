"""Quarter turns against NumPy's, and their loss against the cross-entropy by hand."""

import jax
import numpy as np
from conftest import make_mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.transforms.quarter_turns import quarter_turns, rotation_loss


def test_the_turns_of_an_image_are_adjacent_and_exact():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    turned = np.asarray(quarter_turns(images))
    for i, image in enumerate(images):
        for k in (1, 2, 3):
            np.testing.assert_array_equal(turned[3 * i + k - 1], np.rot90(image, k))


def test_turns_stay_on_the_device_of_their_image():
    mesh = make_mesh(8)
    images = jax.device_put(np.zeros((8, 4, 4, 1), np.float32), NamedSharding(mesh, P("data")))
    compiled = jax.jit(quarter_turns, out_shardings=NamedSharding(mesh, P("data"))).lower(images)
    text = compiled.compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


def test_rotation_loss():
    rng = np.random.default_rng(1)
    upright, turned = (rng.normal(size=(n, 4)).astype(np.float32) for n in (2, 6))
    rows = [(x, 0) for x in upright] + [(x, 1 + i % 3) for i, x in enumerate(turned)]
    nll = [np.log(np.exp(x).sum()) - x[turn] for x, turn in rows]
    right = [x.argmax() == turn for x, turn in rows]
    loss, top1 = rotation_loss(upright, turned)
    np.testing.assert_allclose(loss, np.mean(nll), rtol=1e-5)
    np.testing.assert_allclose(top1, np.mean(right))
