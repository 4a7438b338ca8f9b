"""The networks of BigGAN against plain NumPy, written from the paper's figures 15 and 16 and
BigGAN-PyTorch's description of the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import nn
from jssl.config import UserError, call_with_section
from jssl.nn import biggan
from jssl.nn.apply import apply, init

GENERATOR = dict(
    latent=8, width=2, hierarchical=True, class_width=3, attention=8, spectral_norm=True,
    init="normal002", size=32, channels=3, num_classes=5, dtype="float32",
)  # fmt: skip
MODEL = dict(name="biggan_32", width=2, attention=8, init="xavier", dtype="float32")


# -- NumPy ----------------------------------------------------------------------------------------


def unit(x):
    return x / np.linalg.norm(x)


def normalized(p, s):
    """The kernel over its largest singular value, by one step of the power method from u."""
    if "u" not in s:
        return p["kernel"]
    flat = p["kernel"].reshape(-1, p["kernel"].shape[-1])
    v = unit(flat @ s["u"])
    return p["kernel"] / (v @ flat @ unit(flat.T @ v))


def conv(x, p, s):
    """Correlation with zeros around."""
    kernel = normalized(p, s)
    size = len(kernel)
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    height, width = x.shape[1:3]
    out = sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
    return out + p.get("bias", 0)


def relu(x):
    return np.maximum(x, 0)


def norm(x, p, s, condition=None):
    """BatchNorm in evaluation mode."""
    x = (x - s["bn"]["mean"]) / np.sqrt(s["bn"]["var"] + 1e-5)
    if condition is None:
        return x * p["bn"]["scale"] + p["bn"]["bias"]
    gain, bias = (condition @ normalized(p[name], s[name]) for name in ("gain", "bias"))
    return x * (1 + gain[:, None, None]) + bias[:, None, None]


def double(x):
    return np.kron(x, np.ones((1, 2, 2, 1)))


def half(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def attention(x, p, s):
    b, h, w, c = x.shape

    def pooled(x):
        return np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])

    theta = conv(x, p["theta"], s["theta"]).reshape(b, h * w, -1)
    phi = pooled(conv(x, p["phi"], s["phi"])).reshape(b, h * w // 4, -1)
    g = pooled(conv(x, p["g"], s["g"])).reshape(b, h * w // 4, -1)
    logits = theta @ phi.transpose(0, 2, 1)
    beta = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return x + p["gamma"] * conv((beta @ g).reshape(b, h, w, -1), p["o"], s["o"])


def numpy_discriminator(x, p, s):
    """Features of images of 32 pixels, with self-attention at 8."""
    for i in range(1, 5):
        q, t = p[f"layer{i}_0"], s[f"layer{i}_0"]
        h = x if i == 1 else relu(x)
        h = conv(relu(conv(h, q["conv1"], t["conv1"])), q["conv2"], t["conv2"])
        if i == 1:
            x = conv(half(x), q["conv_sc"], t["conv_sc"])
        elif i == 2:
            x = half(conv(x, q["conv_sc"], t["conv_sc"]))
        x = x + (half(h) if i < 3 else h)
        if i == 2:
            x = attention(x, p["layer2_1"], s["layer2_1"])
    return relu(x).sum((1, 2))


def numpy_generator(z, labels, p, s):
    """Images of 32 pixels, with hierarchical latents, classes and self-attention at 8."""
    chunks = np.split(z, 4, axis=1)
    shared = p["classes"]["kernel"][labels]
    x = chunks[0] @ normalized(p["linear"], s["linear"]) + p["linear"]["bias"]
    x = x.reshape(len(z), 4, 4, -1)
    for i in range(1, 4):
        q, t = p[f"layer{i}_0"], s[f"layer{i}_0"]
        condition = np.concatenate([shared, chunks[i]], axis=1)
        h = double(relu(norm(x, q["bn1"], t["bn1"], condition)))
        h = relu(norm(conv(h, q["conv1"], t["conv1"]), q["bn2"], t["bn2"], condition))
        h = conv(h, q["conv2"], t["conv2"])
        x = h + conv(double(x), q["conv_sc"], t["conv_sc"])
        if i == 1:
            x = attention(x, p["layer1_1"], s["layer1_1"])
    return np.tanh(conv(relu(norm(x, p["norm"], s["norm"])), p["out"], s["out"]))


def drawn(module, rng, *inputs):
    """Parameters and statistics without zeros: biases, gains, gamma and variances are drawn."""
    shapes = jax.eval_shape(lambda: init(module, jax.random.key(0), *inputs))

    def draw(path, leaf):
        name = path[-1].key
        x = rng.normal(size=leaf.shape) * 0.3 + (name in ("scale", "gamma"))
        return np.float64(np.abs(x) + 0.5 if name == "var" else x)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def evaluated(net, params, stats, *inputs):
    """The output in evaluation mode, by one program."""
    return jax.jit(lambda p, s: apply(net, p, s, *inputs, train=False)[0])(params, stats)


def test_the_discriminator_is_the_one_in_numpy():
    rng = np.random.default_rng(0)
    net = nn.encoder(MODEL)
    images = rng.uniform(-1, 1, (2, 32, 32, 3))
    params, stats = drawn(net, rng, images)
    out = evaluated(net, params, stats, jnp.float32(images))
    assert out.shape == (2, net.dim) and net.features(out) is out
    np.testing.assert_allclose(out, numpy_discriminator(images, params, stats), rtol=1e-3)


def test_the_generator_is_the_one_in_numpy():
    rng = np.random.default_rng(1)
    net = biggan.generator(**GENERATOR)
    z = rng.normal(size=(2, 8))
    labels = np.array([3, 0])
    params, stats = drawn(net, rng, z, labels)
    out = evaluated(net, params, stats, jnp.float32(z), labels)
    wanted = numpy_generator(z, labels, params, stats)
    assert out.shape == (2, 32, 32, 3) and 0.01 < np.abs(wanted).mean() < 0.99
    np.testing.assert_allclose(out, wanted, atol=2e-3)


def test_the_head_projects_features_onto_classes():
    """Miyato & Koyama 2018, equation 4; an example without a label has no projection."""
    rng = np.random.default_rng(2)
    net = biggan.Head(num_classes=3, rotations=True, initializer=jax.nn.initializers.normal())
    features = rng.normal(size=(4, 6))
    labels = np.array([2, 0, -1, 1])
    params, stats = drawn(net, rng, features, labels)
    out, _ = apply(net, params, stats, jnp.float32(features), labels, train=False)
    weights = {name: normalized(params[name], stats[name]) for name in params}
    score = features @ weights["score"][:, 0] + params["score"]["bias"]
    classes = (features @ weights["classes"])[np.arange(4), labels] * (labels >= 0)
    np.testing.assert_allclose(out["score"], score + classes, rtol=1e-4, atol=1e-5)
    turns = features @ weights["rotation"] + params["rotation"]["bias"]
    np.testing.assert_allclose(out["rotation"], turns, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_channel_plans(size):
    """Table 4 of the paper, and BigGAN-PyTorch's plans of 32 and 64 pixels."""
    width = 3
    net = nn.encoder(MODEL | {"name": f"biggan_{size}", "width": width, "attention": 0})
    z = jnp.zeros((1, 8))
    generator = biggan.generator(
        **GENERATOR | {"size": size, "hierarchical": False, "attention": 0, "width": width}
    )
    params, _ = jax.eval_shape(lambda: init(net, jax.random.key(0), jnp.zeros((1, size, size, 3))))
    made = jax.eval_shape(lambda: init(generator, jax.random.key(0), z, None))[0]
    down = [params[f"layer{i + 1}_0"]["conv2"]["kernel"].shape[-1] for i in range(len(params))]
    blocks = [name for name in made if name.startswith("layer")]
    up = [made[f"layer{i + 1}_0"]["conv1"]["kernel"].shape[2:] for i in range(len(blocks))]
    plans = {
        32: ([4, 4, 4, 4], [(4, 4), (4, 4), (4, 4)]),
        64: ([1, 2, 4, 8, 16], [(16, 16), (16, 8), (8, 4), (4, 2)]),
        128: ([1, 2, 4, 8, 16, 16], [(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)]),
    }
    wanted_down, wanted_up = plans[size]
    assert down == [width * n for n in wanted_down]
    assert up == [(width * a, width * b) for a, b in wanted_up]
    assert made["out"]["kernel"].shape == (3, 3, width * wanted_up[-1][1], 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention": 7}, "config.generator.attention=7: no map has it; try 0, 8, 16, 32"),
        ({"latent": 10}, "config.generator.latent=10: must be a multiple of 4.*try 12"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    with pytest.raises(UserError, match=said):
        biggan.generator(**GENERATOR | change)


def test_the_discriminator_names_its_maps():
    with pytest.raises(UserError, match="config.model.attention=4: no map has it; try 0, 16, 8"):
        nn.encoder(MODEL | {"attention": 4})
    with pytest.raises(UserError, match="config.model.name='biggan_48'.*biggan_32"):
        call_with_section(biggan.build, MODEL | {"name": "biggan_48"}, "model")
