"""`config.eval.layer`: features of a layer inside the encoder."""

import jax
import numpy as np
import pytest
from conftest import make_mesh

from jssl import nn
from jssl.config import Config, UserError, load
from jssl.nn.transformer import stack
from jssl.training.setup import setup_run

RESNET = "configs/simclr_digits.py:tiny"
VIT = "configs/mae_imagenette.py:tiny"


def setup(recipe, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return setup_run(Config(load(recipe, changes)), make_mesh(1))


def embedded(run, state):
    return np.asarray(jax.jit(run.method.embed)(state, run.example))


@pytest.fixture(scope="module")
def resnet():
    run = setup(RESNET)
    return run, run.init()


@pytest.fixture(scope="module")
def vit():
    run = setup(VIT)
    return run, run.init()


def test_a_stage_of_a_resnet(resnet):
    run, state = resnet
    last = setup(RESNET, eval__layer="stage2")
    np.testing.assert_allclose(embedded(last, state), embedded(run, state), rtol=1e-5)
    first = setup(RESNET, eval__layer="stage1")
    found = embedded(first, state)
    net = nn.encoder(run.config.model).clone(depths=(1,))  # what is left without stage 2
    variables = {
        "params": state.params["encoder"],
        "batch_stats": state.buffers["stats"]["encoder"],
    }
    x = (run.example["image"] / 255 - 0.5) / 0.25
    wanted = net.apply(variables, x.astype(np.float32), train=False)
    assert first.config.augment.mean == (0.5,) and found.shape == wanted.shape == (2, 8)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_block_of_a_vit_that_is_scanned_or_recomputed(vit):
    run, state = vit
    wanted = embedded(setup(VIT, eval__layer="block1"), state)
    assert wanted.shape == embedded(run, state).shape
    assert np.abs(wanted - embedded(setup(VIT, eval__layer="block2"), state)).max() > 1e-3
    again = embedded(setup(VIT, eval__layer="block1", model__remat="full"), state)
    np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-6)
    blocks = state.params["encoder"]["blocks"]
    encoder = state.params["encoder"] | {"blocks": stack(blocks)}
    scanned = setup(VIT, eval__layer="block1", model__scan="True")
    state = state.replace(params=state.params | {"encoder": encoder})
    np.testing.assert_allclose(embedded(scanned, state), wanted, rtol=1e-5, atol=1e-6)


def test_an_unknown_layer_names_those_that_there_are(resnet):
    _, state = resnet
    run = setup(RESNET, eval__layer="stage3")
    with pytest.raises(UserError, match="--config.eval.layer='stage3': no layer of the encoder"):
        embedded(run, state)
    with pytest.raises(UserError, match="known: stage1, stage2"):
        embedded(run, state)
    with pytest.raises(UserError, match="--config.eval.layer='block1': is for images"):
        setup("configs/bert_small_books.py:tiny", eval__layer="block1")
