"""The losses of the autoencoders, from a batch of images to the number, against NumPy and SciPy.

The last convolution of each decoder is set to a constant image, so that a test knows the prediction
without the networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config_of, image_info
from scipy import stats

from jssl import methods
from jssl.config import UserError
from jssl.core import TrainState
from jssl.nn import codebook
from jssl.nn.autoencoder import autoencoder_from_config

MEAN = np.array([0.4914, 0.4822, 0.4465])
STD = np.array([0.2470, 0.2435, 0.2616])
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
BATCH = {"image": jnp.asarray(PIXELS), "size": jnp.full((4, 2), 32, jnp.int32)}
IMAGES = (PIXELS / 255 - MEAN) / STD
CONSTANT = np.array([0.3, -0.2, 0.1])  # the prediction, for normalized pixels


@functools.cache
def built(recipe, changes=()):
    """(config, objective) of a tiny recipe whose views are the images."""
    own = {"augment__flip_prob": 0.0, "log__rank_every": 0}
    config = config_of(f"configs/{recipe}:tiny", **own, **dict(changes))
    return config, methods.load(config, image_info())


@functools.cache
def first_state(recipe):
    """The first state of a recipe; no test changes its shapes."""
    params, buffers = jax.jit(built(recipe)[1].init)(jax.random.key(0), BATCH)
    return TrainState(jnp.zeros((), jnp.int32), params, {}, buffers)


def objective_and_state(recipe, **changes):
    return built(recipe, tuple(changes.items()))[1], first_state(recipe)


def predicting(state, constant):
    """The parameters with a decoder whose image is constant."""
    image = {
        "kernel": 0 * state.params["decoder"]["image"]["kernel"],
        "bias": jnp.asarray(constant, jnp.float32),
    }
    return state.params | {"decoder": state.params["decoder"] | {"image": image}}


def loss_of(objective, state, params):
    """(loss, metrics, next buffers)."""
    value, (buffers, metrics) = jax.jit(objective.loss)(params, state, BATCH, jax.random.key(1))
    return float(value), {key: float(x) for key, x in metrics.items()}, buffers


def psnr(error, where=None):
    """Mean over images of the PSNR of errors [B, H, W, 3] of pixels in 0..1."""
    squares = np.square(error).mean(-1)
    mse = [np.mean(s if where is None else s[w]) for s, w in zip(squares, where, strict=True)]
    return np.mean(-10 * np.log10(mse))


def as_pixels(normalized):
    return np.clip(normalized * STD + MEAN, 0, 1)


def test_denoising_compares_with_the_clean_image():
    changes = {"noise": "salt_pepper", "noise_strength": 0.5}
    objective, state = objective_and_state("denoising_cifar10.py", **changes)
    value, metrics, _ = loss_of(objective, state, predicting(state, CONSTANT))
    np.testing.assert_allclose(value, np.mean((CONSTANT - IMAGES) ** 2), rtol=1e-5)
    everywhere = np.ones((4, 32, 32), bool)
    expected = psnr(as_pixels(CONSTANT) - PIXELS / 255, everywhere)
    np.testing.assert_allclose(metrics["psnr"], expected, rtol=1e-5)
    half = -10 * np.log10(0.5 * np.mean((PIXELS / 255) ** 2 + (1 - PIXELS / 255) ** 2) / 2)
    np.testing.assert_allclose(metrics["psnr_input"], half, atol=0.3)


def test_the_denoising_network_sees_the_noise():
    objective, state = objective_and_state("denoising_cifar10.py")
    panel = jax.jit(objective.render)(state.params, state.buffers, BATCH, jax.random.key(1))
    original, noisy, denoised = (np.asarray(x) for x in panel["denoised"].images)
    np.testing.assert_allclose(original, PIXELS / 255, atol=1e-5)
    np.testing.assert_allclose((noisy - original).std(), 0.3, rtol=0.05)
    again = jax.jit(objective.render)(state.params, state.buffers, BATCH, jax.random.key(2))
    assert np.abs(denoised - np.asarray(again["denoised"].images[2])).max() > 1e-3


def test_inpainting_counts_the_hole_and_ten_times_its_band():
    objective, state = objective_and_state("inpainting_cifar10.py", mask="center", overlap=2)
    value, metrics, _ = loss_of(objective, state, predicting(state, CONSTANT))
    errors = np.square(CONSTANT - IMAGES).mean(-1)
    hole = np.zeros((32, 32), bool)
    hole[10:22, 10:22] = True
    band = np.zeros((32, 32), bool)
    band[8:24, 8:24] = True
    band &= ~hole
    expected = (errors[:, hole].sum() + 10 * errors[:, band].sum()) / (4 * 16 * 16)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    holes = np.stack([hole] * 4)
    expected = psnr(as_pixels(CONSTANT) - PIXELS / 255, holes)
    np.testing.assert_allclose(metrics["psnr"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr_mean_fill"], psnr(MEAN - PIXELS / 255, holes), 1e-5)


def test_the_inpainting_network_does_not_see_the_hole():
    objective, state = objective_and_state("inpainting_cifar10.py", mask="center", overlap=2)
    render = jax.jit(objective.render)
    hidden = BATCH | {"image": BATCH["image"].at[:, 12:20, 12:20].set(7)}
    seen = BATCH | {"image": BATCH["image"].at[:, 2:8, 2:8].set(7)}
    pictures = [
        np.asarray(
            render(state.params, state.buffers, batch, jax.random.key(1))["inpainted"].images
        )
        for batch in (BATCH, hidden, seen)
    ]
    (original, masked, filled), (_, _, of_hidden), (_, _, of_seen) = pictures
    np.testing.assert_array_equal(filled[:, 10:22, 10:22], of_hidden[:, 10:22, 10:22])
    assert np.abs(filled - of_seen)[:, 10:22, 10:22].max() > 1e-4
    np.testing.assert_allclose(masked[:, 10:22, 10:22], np.broadcast_to(MEAN, (4, 12, 12, 3)), 1e-5)
    np.testing.assert_array_equal(masked[:, :10], original[:, :10])


def test_vae_counts_the_bits_of_the_exact_pixels():
    """Rate and distortion by SciPy: constant distributions of z and of the pixels."""
    changes = {"beta": 0.5, "beta_warmup_steps": 0, "free_bits": 2.0}
    objective, state = objective_and_state("vae_cifar10.py", **changes)
    mean = np.array([0.1, -0.3, 0.2])
    log_scale = np.array([-1.0, -1.5, -0.7])
    params = predicting(state, np.concatenate([mean, log_scale]))
    mu = np.array([1.0, -2.0, 0.1, 0.5])
    log_variance = np.array([0.5, -1.0, 0.1, 0.0])
    code = {
        "kernel": 0 * params["bottleneck"]["code"]["kernel"],
        "bias": jnp.asarray(np.concatenate([mu, log_variance]), jnp.float32),
    }
    value, metrics, _ = loss_of(objective, state, params | {"bottleneck": {"code": code}})
    p = stats.logistic(mean, np.exp(log_scale))
    upper = np.where(PIXELS == 255, 1, p.cdf((PIXELS + 0.5) / 127.5 - 1))
    lower = np.where(PIXELS == 0, 0, p.cdf((PIXELS - 0.5) / 127.5 - 1))
    distortion = -np.log(upper - lower).sum((1, 2, 3)).mean()
    kl = 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance)
    num_values = PIXELS[0].size
    bits = (distortion + kl.sum()) / num_values / np.log(2)
    np.testing.assert_allclose(metrics["bits_per_dim"], bits, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl.sum(), rtol=1e-5)
    assert (kl < 2).any() and (kl > 2).any() and metrics["active_units"] == 0
    expected = (distortion + 0.5 * np.maximum(kl, 2).sum()) / num_values
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_beta_rises():
    objective, state = objective_and_state("vae_cifar10.py", beta=4.0, beta_warmup_steps=8)
    loss = jax.jit(objective.loss)
    for step, beta in ((0, 0.0), (2, 1.0), (8, 4.0), (100, 4.0)):
        now = state.replace(step=jnp.int32(step))
        _, (_, metrics) = loss(now.params, now, BATCH, jax.random.key(1))
        np.testing.assert_allclose(metrics["beta"], beta)
    assert metrics["active_units"] > 0


def test_vae_pictures():
    objective, state = objective_and_state("vae_cifar10.py", beta=4.0, beta_warmup_steps=8)
    panels = jax.jit(objective.render)(state.params, state.buffers, BATCH, jax.random.key(1))
    images = {name: np.asarray(panel.images[-1]) for name, panel in panels.items()}
    first = np.asarray(panels["interpolated"].images[0])
    np.testing.assert_allclose(first, images["reconstructed"], atol=1e-5)
    np.testing.assert_allclose(np.roll(first, -1, axis=0), images["interpolated"], atol=1e-5)
    assert np.abs(images["sampled"] - np.asarray(panels["sampled"].images[0])).max() > 1e-4


def test_vqvae_reconstructs_and_commits():
    objective, state = objective_and_state("vqvae_cifar10.py")
    value, metrics, buffers = loss_of(objective, state, predicting(state, CONSTANT))
    error = np.mean((CONSTANT - IMAGES) ** 2)
    np.testing.assert_allclose(metrics["reconstruction_loss"], error, rtol=1e-5)
    np.testing.assert_allclose(value, error + metrics["commitment_loss"], rtol=1e-6)
    assert metrics["commitment_loss"] > 0 and 1 < metrics["perplexity"] <= 16
    book = buffers["codebook"]
    moved = state.replace(buffers=buffers | {"codebook": book | {"count": 0 * book["count"]}})
    reseeded = objective.before_update(moved, jax.random.key(0)).buffers["codebook"]
    np.testing.assert_array_equal(reseeded["codes"], book["candidates"])


def test_code_ids_are_those_of_the_nearest_codes():
    config, _ = built("vqvae_cifar10.py")
    state = first_state("vqvae_cifar10.py")
    net = autoencoder_from_config(config)
    quantizer = codebook.quantizer_from_config(config)
    images = jnp.asarray(IMAGES, jnp.float32)

    @jax.jit
    def run(params, buffers):
        code, _, _ = net.encode(params, buffers["stats"], images, train=False)
        return codebook.code_ids(net, quantizer, params, buffers, images), code

    ids, code = map(np.asarray, run(state.params, state.buffers))
    assert ids.shape == (4, 16, 16) and ids.dtype == np.int32
    codes = np.asarray(state.buffers["codebook"]["codes"], np.float64)
    distances = np.square(code[..., None, :].astype(np.float64) - codes).sum(-1)
    best = distances.min(-1)
    chosen = np.take_along_axis(distances, ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, best, rtol=1e-4)


def test_a_vector_has_no_code_ids():
    with pytest.raises(UserError, match=r"^--config.decoder.bottleneck='vector': .* use map$"):
        built("vqvae_cifar10.py", (("decoder__bottleneck", "vector"),))
