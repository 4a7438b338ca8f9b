"""The decoder equals one written in PyTorch (tests/golden/torch_decoder.py), and fits any map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax.traverse_util import unflatten_dict
from helpers import config_of

from jssl.config import UserError
from jssl.nn import feature_maps
from jssl.nn.apply import apply, init
from jssl.nn.autoencoder import autoencoder_from_config
from jssl.nn.decoder import Decoder

GOLDEN = np.load(ROOT / "tests" / "golden" / "torch_decoder.npz")
KEY = jax.random.key(0)
RECIPE = "configs/denoising_cifar10.py:tiny"


@pytest.mark.parametrize(
    ("case", "upsample", "norm"),
    [
        ("vector", "transposed", "group"),
        ("map", "resize", "batch"),
        ("plain", "transposed", "none"),
    ],
)
def test_decoder_equals_pytorch(case, upsample, norm):
    prefix = f"{case}/params/"
    params = {key[len(prefix) :]: GOLDEN[key] for key in GOLDEN if key.startswith(prefix)}
    code = jnp.asarray(GOLDEN[f"{case}/code"])
    decoder = Decoder(2, 1, 3, 4, 1, upsample, norm, jnp.dtype("float32"))
    params = unflatten_dict(params, sep="/")
    drawn, stats = jax.eval_shape(lambda: init(decoder, KEY, code))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    stats = jax.tree.map(lambda x: jnp.zeros(x.shape), stats)
    image, _ = jax.jit(lambda params: apply(decoder, params, stats, code, train=True))(params)
    assert image.dtype == jnp.float32
    np.testing.assert_allclose(image, GOLDEN[f"{case}/image"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "size", "reduction"),
    [
        ({"name": "resnet8"}, 32, 4),
        ({"name": "resnet18", "stem": "imagenet"}, 64, 32),
        ({"name": "resnet10"}, 32, 8),
    ],
)
def test_reduction_is_that_of_the_map(model, size, reduction):
    config = config_of(RECIPE, **{f"model__{key}": value for key, value in model.items()})
    encoder = feature_maps.image_encoder(config.model, "model")
    assert feature_maps.reduction(encoder) == reduction
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def maps(x):
        return feature_maps.run_encoder(encoder, *init(encoder, KEY, x), x, False)[1]

    assert jax.eval_shape(maps, images).shape[1:3] == (size // reduction,) * 2


def test_a_vit_is_decoded_too():
    words = {"model.name": "vit_test"}
    config = config_of(RECIPE, **words, decoder__bottleneck="vector")
    net = autoencoder_from_config(config)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def run(x):
        params, stats = net.init(KEY, x)
        code, _, stats = net.encode(params, stats, x, train=True, rng=KEY)
        return code, net.decode(params, stats, code, train=True)[0]

    code, image = jax.eval_shape(run, images)
    assert (code.shape, image.shape) == ((2, 4), images.shape)


def test_sizes_that_no_doubling_reaches_are_one_line():
    with pytest.raises(UserError, match=r"--config.augment.size=31: .* divides it by 2"):
        autoencoder_from_config(config_of(RECIPE, augment__size=31))
    with pytest.raises(UserError, match=r"no image encoder with a feature map"):
        autoencoder_from_config(config_of("configs/bert_small_books.py:tiny"))
