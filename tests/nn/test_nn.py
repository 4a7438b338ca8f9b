"""Networks against references written in NumPy from the papers' and libraries' definitions."""

import math
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import in_make_laws

from jssl import nn
from jssl.config import UserError
from jssl.nn import heads, norm, positions, resnet, transformer, vit
from jssl.nn.apply import apply, init

KEY = jax.random.key(0)
RESNET = {
    "name": "resnet18",
    "stem": "cifar",
    "width": 4,
    "zero_init_residual": False,
    "init": "fan_out",
    "dtype": "float32",
}
VIT = {
    "name": "vit_test",
    "patch": 4,
    "image_size": 12,
    "class_token": True,
    "pool": "cls",
    "positions": "sincos",
    "drop_path": 0.0,
    "remat": "none",
    "scan": False,
    "attention": "auto",
    "init": "xavier",
    "dtype": "float32",
    "residual_dtype": "float32",
}


def images(batch=2, size=12):
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


def run(fn, *args):
    """fn(*args) as one program, compiled fast rather than well."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})(*args)


def fill(net, x):
    """(params, stats) of `net`, all random, so that no zero and no one hides an error."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda x: init(net, KEY, x), x)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return rng.uniform(0.2, 1.2, leaf.shape).astype(np.float32)
        scale = math.prod(leaf.shape[:-1]) ** -0.5
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(tree):
    return {name: leaf.shape for name, leaf in named(tree).items()}


def parameters(section, size):
    net = nn.encoder(section)
    shape = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params, _ = jax.eval_shape(lambda x: init(net, KEY, x), shape)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# ---- sizes and names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's table of weights, less the classifier
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
    ],
)
def test_resnet_has_the_published_number_of_parameters(name, published):
    assert parameters(RESNET | {"name": name, "stem": "imagenet", "width": 64}, 64) == published


@pytest.mark.parametrize(
    ("name", "dim", "depth", "published"),  # timm's vit_*_patch16_224 without head
    [
        ("vit_ti", 192, 12, 5_524_416),
        ("vit_s", 384, 12, 21_665_664),
        ("vit_b", 768, 12, 85_798_656),
        ("vit_l", 1024, 24, 303_301_632),
    ],
)
def test_vit_has_the_published_number_of_parameters(name, dim, depth, published):
    section = VIT | {"name": name, "patch": 16, "image_size": 224, "scan": True}
    by_hand = depth * (12 * dim**2 + 13 * dim) + (16 * 16 * 3 + 1) * dim + dim + 2 * dim
    assert parameters(section, 224) == by_hand
    assert parameters(section | {"positions": "learned"}, 224) == published == by_hand + 197 * dim


def test_resnet_names_are_torchvisions():
    net = resnet.build(**RESNET | {"name": "resnet50", "stem": "imagenet"})
    params, stats = fill(net, images(1, 32))
    want = {"conv1", "bn1"}
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for i in range(depth):
            inner = [f"{kind}{n}" for kind in ("conv", "bn") for n in (1, 2, 3)]
            inner += ["downsample_0", "downsample_1"] if i == 0 else []
            want |= {f"layer{stage}_{i}/{name}" for name in inner}
    assert {name.rsplit("/", 1)[0] for name in named(params)} == want
    norms = {n for n in want if n.rsplit("/", 1)[-1].startswith("bn") or n.endswith("downsample_1")}
    assert {name.rsplit("/", 1)[0] for name in named(stats)} == norms


def test_vit_names_are_timms():
    params, _ = fill(vit.build(**VIT | {"positions": "learned"}), images())
    dense = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    layer = {f"{name}/{part}" for name in dense for part in ("kernel", "bias")}
    layer |= {f"{name}/{part}" for name in ("norm1", "norm2") for part in ("scale", "bias")}
    want = {f"blocks/{i}/{name}" for i in range(2) for name in layer}
    want |= {"cls_token", "pos_embed", "patch_embed/kernel", "patch_embed/bias"}
    assert set(named(params)) == want | {"norm/scale", "norm/bias"}
    assert params["cls_token"].shape == (1, 1, 32)


# ---- ResNet ------------------------------------------------------------------------------------


def np_conv(x, kernel, stride, pad):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    k = kernel.shape[0]
    side = (x.shape[1] - k) // stride + 1
    out = 0
    for i in range(k):
        for j in range(k):
            part = x[:, i : i + stride * side : stride, j : j + stride * side : stride]
            out = out + part[:, :side, :side] @ kernel[i, j]
    return out


def np_norm(x, params, stats):
    """BatchNorm; by the statistics of x itself where `stats` is None."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes) if stats is None else stats["mean"]
    var = x.var(axes) if stats is None else stats["var"]
    return (x - mean) / np.sqrt(var + 1e-5) * params.get("scale", 1) + params.get("bias", 0)


def np_block(x, params, stats, stride):
    """torchvision: strides (s, 1) in a basic block and (1, s, 1) in a v1.5 bottleneck."""
    layers = 3 if "conv3" in params else 2
    strides = (1, stride, 1) if layers == 3 else (stride, 1)

    def of(name):
        return None if stats is None else stats[name]

    y = x
    for n in range(1, layers + 1):
        kernel = params[f"conv{n}"]["kernel"]
        y = np_conv(y, kernel, strides[n - 1], kernel.shape[0] // 2)
        y = np_norm(y, params[f"bn{n}"], of(f"bn{n}"))
        y = np.maximum(y, 0) if n < layers else y
    if "downsample_0" in params:
        x = np_conv(x, params["downsample_0"]["kernel"], stride, 0)
        x = np_norm(x, params["downsample_1"], of("downsample_1"))
    return np.maximum(x + y, 0)


def np_max_pool(x):
    side = x.shape[1]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    parts = [padded[:, i : i + side : 2, j : j + side : 2] for i in range(3) for j in range(3)]
    return np.max(parts, axis=0)


def np_resnet(x, params, stats, stem):
    def of(name):
        return None if stats is None else stats[name]

    stride, pad = (2, 3) if stem == "imagenet" else (1, 1)
    x = np_conv(x, params["conv1"]["kernel"], stride, pad)
    x = np.maximum(np_norm(x, params["bn1"], of("bn1")), 0)
    x = np_max_pool(x) if stem == "imagenet" else x
    for name in sorted(n for n in params if n.startswith("layer")):
        stride = 2 if name[5] != "1" and name[-1] == "0" else 1
        x = np_block(x, params[name], of(name), stride)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("name", "stem", "size"), [("resnet18", "cifar", 8), ("resnet50", "imagenet", 23)]
)
def test_resnet_equals_numpy(name, stem, size):
    net = resnet.build(**RESNET | {"name": name, "stem": stem, "width": 2}).clone(depths=(1, 2))
    x = images(2, size)
    params, stats = fill(net, x)
    out, same = run(lambda *a: apply(net, *a, train=False), params, stats, x)
    assert out.shape == (2, 4 if name == "resnet18" else 16)
    np.testing.assert_allclose(out, np_resnet(x, params, stats, stem), rtol=2e-4, atol=1e-5)
    chex.assert_trees_all_equal(same, stats)


def test_training_uses_and_records_the_batch_statistics():
    net = resnet.build(**RESNET).clone(depths=(1,))
    x = images(3, 8)
    params, stats = fill(net, x)
    out, new = run(lambda *a: apply(net, *a, train=True), params, stats, x)
    np.testing.assert_allclose(out, np_resnet(x, params, None, "cifar"), rtol=1e-3)
    y = np_conv(x, params["conv1"]["kernel"], 1, 1)
    for name, batch in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        want = 0.9 * stats["bn1"][name] + 0.1 * batch  # the biased variance: Flax
        np.testing.assert_allclose(new["bn1"][name], want, rtol=1e-4, atol=1e-6)


def test_zero_init_makes_each_block_its_shortcut():
    net = resnet.build(**RESNET | {"zero_init_residual": True}).clone(depths=(2, 1))
    x = images(2, 8)
    params, stats = run(lambda x: init(net, KEY, x), x)
    zero = {name for name, leaf in named(params).items() if "scale" in name and not leaf.any()}
    assert zero == {f"{block}/bn2/scale" for block in ("layer1_0", "layer1_1", "layer2_0")}
    y = np.maximum(np_conv(x, np.asarray(params["conv1"]["kernel"]), 1, 1) / np.sqrt(1 + 1e-5), 0)
    kernel = np.asarray(params["layer2_0"]["downsample_0"]["kernel"])
    y = np.maximum(np_conv(y, kernel, 2, 0) / np.sqrt(1 + 1e-5), 0)
    out, _ = run(lambda *a: apply(net, *a, train=False), params, stats, x)
    np.testing.assert_allclose(out, y.mean((1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "deviation", "bound"),
    [
        ("fan_out", math.sqrt(2 / (9 * 256)), math.inf),
        ("lecun", math.sqrt(1 / (9 * 64)), 2.28 / 24),  # cut at 2 deviations of the full normal
        ("torch", math.sqrt(1 / 3 / (9 * 64)), 1 / 24),
    ],
)
def test_convolutions_start_as_named(scheme, deviation, bound):
    kernel = np.asarray(resnet.INITIALIZERS[scheme](KEY, (3, 3, 64, 256), jnp.float32))
    assert kernel.std() == pytest.approx(deviation, rel=0.01)
    assert 0.98 * min(bound, 4 * deviation) < np.abs(kernel).max() <= bound


# ---- transformer and ViT -----------------------------------------------------------------------


def np_layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def np_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def np_feed_forward(x, p):
    y = np_dense(x, p["fc1"])
    return np_dense(0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))), p["fc2"])


def np_transformer_block(x, p, n_heads):
    d = x.shape[-1] // n_heads
    qkv = np_dense(np_layer_norm(x, p["norm1"]), p["attn"]["qkv"])
    q, k, v = np.split(qkv, 3, axis=-1)
    out = []
    for h in range(n_heads):
        mine = slice(h * d, (h + 1) * d)
        logits = q[..., mine] @ k[..., mine].swapaxes(1, 2) / math.sqrt(d)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(weights / weights.sum(-1, keepdims=True) @ v[..., mine])
    x = x + np_dense(np.concatenate(out, -1), p["attn"]["proj"])
    return x + np_feed_forward(np_layer_norm(x, p["norm2"]), p["mlp"])


def test_vit_equals_numpy():
    net = vit.build(**VIT | {"positions": "learned"})
    x = images()
    p, none = fill(net, x)
    tokens = []
    for row in range(3):
        for column in range(3):
            patch = x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            tokens.append(np_dense(patch.reshape(2, -1), p["patch_embed"]))  # row, column, channel
    y = np.stack(tokens, axis=1) + p["pos_embed"][:, 1:]
    first = np.broadcast_to(p["cls_token"] + p["pos_embed"][:, :1], (2, 1, 32))
    y = np.concatenate([first, y], axis=1)
    for i in range(2):
        y = np_transformer_block(y, p["blocks"][str(i)], 2)
    y = np_layer_norm(y, p["norm"])
    out, stats = run(lambda p, x: apply(net, p, none, x, train=False), p, x)
    np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-5)
    assert stats == none == {}
    np.testing.assert_array_equal(net.features(out), out[:, 0])
    mean = net.clone(pool="mean").features(out)
    np.testing.assert_allclose(mean, y[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    bare = net.clone(pool="mean", class_token=False).features(out)
    np.testing.assert_allclose(bare, y.mean(1), rtol=1e-4, atol=1e-5)


def test_layer_norm_epsilon_is_1e6():
    x = 1e-3 * images(1, 2)[0, 0]  # of variance 1e-6, where epsilon decides
    p = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    out = transformer.layer_norm().apply({"params": p}, x)
    np.testing.assert_allclose(out, np_layer_norm(x, p), rtol=1e-4)


def test_sincos_table_is_maes():
    dim, grid = 24, 5
    want = np.zeros((1 + grid * grid, dim))
    for row in range(grid):
        for column in range(grid):
            for half, place in enumerate((column, row)):  # MAE: "here w goes first"
                for i in range(dim // 4):
                    angle = place / 10000 ** (i / (dim / 4))
                    at = half * dim // 2 + i
                    want[1 + row * grid + column, at] = math.sin(angle)
                    want[1 + row * grid + column, at + dim // 4] = math.cos(angle)
    np.testing.assert_allclose(positions.sincos(dim, grid, True), want, atol=1e-6)
    np.testing.assert_allclose(positions.sincos(dim, grid, False), want[1:], atol=1e-6)


def test_only_the_kept_patches_are_seen_each_with_its_own_position():
    net = vit.build(**VIT)
    x = images()
    p, _ = fill(net, x)
    order = np.array([[3, 1, 8, 0, 2, 7, 5, 6, 4], [0, 1, 2, 3, 4, 5, 6, 8, 7]])
    keep = np.array([[4, 1], [0, 4]])
    changed = x.copy()
    changed[:, 8:, 8:] += 1.0  # patch 8, which `keep` leaves out

    def see(p, x, keep):
        return apply(net, p, {}, x, train=False, keep_ids=keep)[0]

    def calls(p, x, y):
        return (see(p, x, None), see(p, x, order), see(p, x, keep), see(p, y, keep))

    full, shuffled, few, same = run(calls, p, x, changed)
    np.testing.assert_allclose(shuffled[:, 0], full[:, 0], rtol=1e-4, atol=1e-5)
    for i in range(2):
        np.testing.assert_allclose(shuffled[i, 1:], full[i, 1 + order[i]], rtol=1e-4, atol=1e-5)
    assert few.shape == (2, 3, 32)
    np.testing.assert_array_equal(same, few)
    assert not np.allclose(few[:, 0], full[:, 0], rtol=1e-2)


@cache
def loss_and_gradients(scan, remat):
    """Those of a training pass with drop_path, on the same parameters for every (scan, remat)."""
    loop = vit.build(**VIT | {"drop_path": 0.5})
    net = loop.clone(scan=scan, remat=remat)
    x, rngs = images(4), {"drop_path": jax.random.key(3)}
    p, _ = fill(loop, x)
    p = p | {"blocks": transformer.stack(p["blocks"])} if scan else p
    assert shapes(jax.eval_shape(lambda x: init(net, KEY, x)[0], x)) == shapes(p)
    target = np.random.default_rng(2).normal(size=(4, 10, 32))

    def loss(p):
        return ((apply(net, p, {}, x, train=True, rngs=rngs)[0] - target) ** 2).mean()

    value, grads = run(jax.value_and_grad(loss), p)
    return value, grads | {"blocks": transformer.unstack(grads["blocks"])} if scan else grads


@pytest.mark.parametrize(("scan", "remat"), [(True, "dots"), (False, "full")])
def test_scan_and_remat_change_nothing(scan, remat):
    value, grads = loss_and_gradients(False, "none")
    other, others = loss_and_gradients(scan, remat)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    assert shapes(others) == shapes(grads)
    chex.assert_trees_all_close(others, grads, rtol=1e-3, atol=1e-5)


def test_drop_path_drops_whole_branches_and_keeps_the_mean():
    scales = np.asarray(run(lambda: transformer.branch_scales(KEY, 4000, 3, 0.4)))
    assert scales.shape == (3, 4000, 2)
    for layer, rate in enumerate((0.0, 0.2, 0.4)):
        values = [0, 1 / (1 - rate)] if rate else [1]
        np.testing.assert_allclose(np.unique(scales[layer]), values, rtol=1e-6)
        np.testing.assert_allclose((scales[layer] == 0).mean(0), rate, atol=0.03)
    both = (scales[2] == 0).all(-1).mean()  # the branches are independent: 0.4 ** 2
    assert both == pytest.approx(0.16, abs=0.03)


def test_block_scales_its_two_branches_apart():
    block = transformer.Block(2, 32, "auto", transformer.INITIALIZERS["xavier"], jnp.float32)
    x = images(3, 4).reshape(3, 6, 8)
    p = run(lambda x: block.init(KEY, x, None)["params"], x)
    scale = np.array([[0, 0], [1, 1], [0, 2]], np.float32)
    out = run(lambda p, *a: block.apply({"params": p}, *a), p, x, scale)
    p = jax.tree.map(np.asarray, p)
    np.testing.assert_array_equal(out[0], x[0])
    np.testing.assert_allclose(out[1:2], np_transformer_block(x[1:2], p, 2), rtol=1e-4, atol=1e-5)
    y = np_feed_forward(np_layer_norm(x[2], p["norm2"]), p["mlp"])
    np.testing.assert_allclose(out[2], x[2] + 2 * y, rtol=1e-4, atol=1e-5)


def test_only_training_needs_a_random_stream():
    net = vit.build(**VIT | {"drop_path": 0.5})
    p, _ = fill(net, images())

    def forward(train):
        return jax.eval_shape(lambda x: apply(net, p, {}, x, train=train), images())

    forward(False)
    with pytest.raises(Exception, match="drop_path"):
        forward(True)


def test_vit_starts_as_named():
    nets = [vit.build(**VIT | {"scan": True, "init": scheme}) for scheme in ("xavier", "trunc02")]
    xavier, trunc02 = run(lambda x: [init(net, KEY, x)[0] for net in nets], images())
    qkv = xavier["blocks"]["layers"]["attn"]["qkv"]["kernel"]
    bound = math.sqrt(6 / (32 + 96))  # over the joint shape
    assert qkv.shape == (2, 32, 96)
    assert 0.98 * bound < np.abs(qkv).max() <= bound
    assert not np.allclose(qkv[0], qkv[1])
    bound = math.sqrt(6 / (48 + 32))
    assert 0.98 * bound < np.abs(xavier["patch_embed"]["kernel"]).max() <= bound
    fc1 = trunc02["blocks"]["layers"]["mlp"]["fc1"]["kernel"]
    assert np.std(fc1) == pytest.approx(0.02, rel=0.05)
    for p in (xavier, trunc02):
        assert not any(leaf.any() for name, leaf in named(p).items() if name.endswith("bias"))
        assert 0.01 < np.std(p["cls_token"]) < 0.03


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=in_make_laws)])
def test_vit_starts_as_beit_and_ijepa_do(scan):
    """BEiT's modeling_pretrain.py: N(0, .02) cut at .02, of deviation .0108; what ends the branches
    of block l, from 1, divided by sqrt(2 l). I-JEPA's helper.py: N(0, .02), and no division."""
    changes = {"name": "vit_micro", "positions": "learned", "scan": scan}
    nets = [vit.build(**VIT | changes | {"init": scheme}) for scheme in ("beit", "normal02")]
    nets = [net.clone(depth=3) for net in nets]
    beit, normal = run(lambda x: [init(net, KEY, x)[0] for net in nets], images())

    def layer(p, index, *names):
        if scan:
            return p["blocks"]["layers"][names[0]][names[1]]["kernel"][index]
        return p["blocks"][str(index)][names[0]][names[1]]["kernel"]

    cut = 0.02 * math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(0.5**0.5))
    for l in range(3):  # noqa: E741
        for names in (("attn", "proj"), ("mlp", "fc2"), ("attn", "qkv"), ("mlp", "fc1")):
            scale = (2 * (l + 1)) ** -0.5 if names[1] in ("proj", "fc2") else 1.0
            kernel = layer(beit, l, *names)
            assert np.std(kernel) == pytest.approx(cut * scale, rel=0.03)
            assert 0.98 * 0.02 * scale < np.abs(kernel).max() <= 0.02 * scale * (1 + 1e-6)
            assert np.std(layer(normal, l, *names)) == pytest.approx(0.02, rel=0.03)
    for name in ("pos_embed", "cls_token"):
        assert np.abs(beit[name]).max() <= 0.02 < np.abs(normal[name]).max()
    assert np.abs(beit["patch_embed"]["kernel"]).max() <= 0.02
    assert np.std(normal["patch_embed"]["kernel"]) == pytest.approx(0.02, rel=0.05)


# ---- both families -----------------------------------------------------------------------------


def test_parameters_do_not_depend_on_the_call():
    net = vit.build(**VIT | {"drop_path": 0.1}).clone(depth=1)
    rngs = {"params": KEY, "drop_path": KEY}

    def calls(x):
        kept = init(net, KEY, x, keep_ids=np.array([[1, 2], [3, 4]]))[0]
        return init(net, KEY, x)[0], kept, net.init(rngs, x, train=True)["params"]

    plain, kept, trained = run(calls, images())
    chex.assert_trees_all_equal(plain, kept, trained)
    small = resnet.build(**RESNET).clone(depths=(1,))

    def calls(x):
        return [init(small, KEY, x, train=train) for train in (False, True)]

    chex.assert_trees_all_equal(*run(calls, images()))


@pytest.mark.parametrize(
    "net", [resnet.build(**RESNET).clone(depths=(1,)), vit.build(**VIT)], ids=["resnet", "vit"]
)
def test_bfloat16_computes_near_float32_with_float32_parameters(net):
    x = images(4)
    half = net.clone(dtype=jnp.dtype("bfloat16"))
    for leaf in jax.tree.leaves(jax.eval_shape(lambda x: init(half, KEY, x), x)):
        assert leaf.dtype == jnp.float32
    params, stats = fill(net, x)

    def forward(net, params, stats, x):
        out, new = apply(net, params, stats, x, train=True)
        return net.features(out), new

    def both(*args):
        return (forward(half, *args), forward(net, *args))

    (out, new), (want, _) = run(both, params, stats, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} <= {jnp.dtype("float32")}
    assert out.dtype == jnp.float32
    assert 1e-4 < np.abs(out - want).mean() / np.abs(want).mean() < 0.03


# ---- heads -------------------------------------------------------------------------------------

HEAD = {
    "features": (16, 8, 6),
    "norm": True,
    "last_norm": True,
    "last_scale": True,
    "last_bias": True,
    "activation": "relu",
    "initializer": "torch",
    "dtype": jnp.float32,
}


@pytest.mark.parametrize("norm", [True, False])
def test_head_equals_numpy(norm):
    head = heads.MLP(**HEAD | {"norm": norm, "last_norm": norm})
    x = images(8, 1).reshape(8, 3)
    p, stats = fill(head, x)
    y = x
    for i in range(3):
        y = y @ p[f"dense{i}"]["kernel"] + p[f"dense{i}"].get("bias", 0)
        y = np_norm(y, p[f"bn{i}"], None) if norm else y
        y = np.maximum(y, 0) if i < 2 else y
    out, _ = run(lambda *a: apply(head, *a, train=True), p, stats, x)
    np.testing.assert_allclose(out, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "last"),
    [
        ({}, {"dense2/kernel", "bn2/scale", "bn2/bias"}),  # lightly's SimCLR
        ({"last_bias": False}, {"dense2/kernel", "bn2/scale"}),  # google-research/simclr
        ({"last_bias": False, "last_scale": False}, {"dense2/kernel"}),  # SimSiam
        ({"last_norm": False}, {"dense2/kernel", "dense2/bias"}),  # BYOL
        ({"last_norm": False, "last_bias": False}, {"dense2/kernel"}),  # Barlow Twins
    ],
)
def test_head_conventions(change, last):
    params, _ = fill(heads.MLP(**HEAD | change), np.ones((4, 3), np.float32))
    parts = ("dense{}/kernel", "bn{}/scale", "bn{}/bias")
    hidden = {part.format(i) for i in (0, 1) for part in parts}
    assert set(named(params)) == hidden | last


def test_head_starts_as_named_and_returns_float32():
    x = np.ones((4, 100), np.float32)
    plain = HEAD | {"features": (400, 50), "norm": False, "last_norm": False}
    plain["dtype"] = jnp.bfloat16
    nets = {scheme: heads.MLP(**plain | {"initializer": scheme}) for scheme in heads.KERNELS}
    params = run(lambda x: {scheme: init(net, KEY, x)[0] for scheme, net in nets.items()}, x)
    for leaf in params["torch"]["dense0"].values():
        assert 0.095 < np.abs(leaf).max() <= 0.1
    assert 0.04 < np.abs(params["torch"]["dense1"]["bias"]).max() <= 0.05
    for scheme, deviation in (("normal001", 0.01), ("lecun", 0.1), ("xavier", math.sqrt(2 / 500))):
        assert np.std(params[scheme]["dense0"]["kernel"]) == pytest.approx(deviation, rel=0.02)
        assert not params[scheme]["dense0"]["bias"].any()
    out = jax.eval_shape(lambda x: apply(nets["torch"], params["torch"], {}, x, train=True)[0], x)
    assert out.dtype == jnp.float32


# ---- what the user may get wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (RESNET | {"name": "resnet19"}, "model.name='resnet19': not known; did you mean 'resnet"),
        (VIT | {"name": "vit_x"}, "vit_ti"),
        (RESNET | {"stem": "cifra"}, "model.stem='cifra': not known; did you mean 'cifar'?"),
        (RESNET | {"init": "he"}, "fan_out"),
        (RESNET | {"dtype": "bf16"}, "bfloat16"),
        (RESNET | {"widht": 3}, "did you mean 'width'?"),
        (RESNET | {"width": "64"}, "must be of type int"),
        ({}, "model.name is missing"),
        (VIT | {"patch": 16, "image_size": 100}, "does not divide --config.model.image_size"),
        (VIT | {"patch": 16, "image_size": 100}, "=100; try 96 or 112"),
        (VIT | {"patch": 16, "image_size": 8}, "=8; try 16"),
        (VIT | {"class_token": False}, "model.class_token=True"),
        (VIT | {"drop_path": 1.0}, "model.drop_path=1.0"),
        (VIT | {"attention": "flash"}, "model.attention='flash'"),
        (VIT | {"remat": "all"}, "model.remat='all'"),
    ],
)
def test_wrong_sections_name_the_key_and_the_cure(section, said):
    with pytest.raises(UserError) as error:
        nn.encoder(section)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_head_batch_norm_is_float32_in_a_bfloat16_head():
    head = heads.MLP(**HEAD | {"dtype": jnp.bfloat16})
    x = images(8, 1).reshape(8, 3)
    p, stats = fill(head, x)
    out, _ = run(lambda *a: apply(head, *a, train=True), p, stats, x)
    assert (out != out.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.5


def test_head_section():
    section = HEAD | {"features": [16, 4], "init": "torch", "dtype": "bfloat16"}
    del section["initializer"]
    head = heads.build(**section)
    want = {"features": (16, 4), "initializer": "torch", "dtype": jnp.dtype("bfloat16")}
    assert head == heads.MLP(**HEAD | want)
    with pytest.raises(
        UserError, match=r"^--config.head.init='touch': not known; did you mean 'torch'"
    ):
        heads.build(**section | {"init": "touch"})


def test_images_of_another_size_are_refused():
    net = nn.encoder(VIT)
    with pytest.raises(UserError, match="model.image_size=12: the images are 16x16"):
        jax.eval_shape(lambda x: init(net, KEY, x), images(2, 16))


def test_split_batch_norm_is_batch_norm_of_each_run_of_rows():
    x = np.random.default_rng(0).normal(2, 3, (12, 2, 2, 4)).astype(np.float32)
    split, whole = (norm.batch_norm(True, jnp.float32, n)() for n in (3, 1))
    rng = np.random.default_rng(1)

    def drawn():
        return rng.uniform(0.2, 1.2, 4).astype(np.float32)

    params, stats = ({a: drawn(), b: drawn()} for a, b in (("scale", "bias"), ("mean", "var")))
    variables = {"params": params, "batch_stats": stats}

    def forward(net):
        return run(lambda x: net.apply(variables, x, mutable=["batch_stats"]), x)

    out, found = forward(split)
    found = found["batch_stats"]
    means, variances = [], []
    for i in range(3):
        part = x[4 * i : 4 * i + 4]
        means.append(part.mean((0, 1, 2)))
        variances.append(part.var((0, 1, 2)))
        wanted = (part - means[-1]) / np.sqrt(variances[-1] + 1e-5)
        wanted = wanted * params["scale"] + params["bias"]
        np.testing.assert_allclose(out[4 * i : 4 * i + 4], wanted, rtol=1e-3, atol=1e-4)
    for name, parts in (("mean", means), ("var", variances)):
        running = 0.9 * stats[name] + 0.1 * np.mean(parts, 0)
        np.testing.assert_allclose(found[name], running, rtol=1e-4)
    assert np.abs(out - forward(whole)[0]).max() > 0.01


def test_a_resnet_with_split_norm_has_the_same_parameters_and_evaluation():
    plain = resnet.build(**RESNET).clone(depths=(1,))
    split = plain.clone(bn_splits=2)
    x = images(8, 8)
    params, stats = fill(plain, x)
    again, _ = fill(split, x)
    assert set(named(params)) == set(named(again))

    def evaluate(net):
        return run(lambda *a: apply(net, *a, train=False)[0], params, stats, x)

    np.testing.assert_array_equal(evaluate(plain), evaluate(split))


def test_a_head_with_gelu():
    head = heads.MLP(**HEAD | {"norm": False, "last_norm": False, "activation": "gelu"})
    x = images(8, 1).reshape(8, 3)
    p, stats = fill(head, x)
    y = np.float64(x)
    for i in range(3):
        y = y @ p[f"dense{i}"]["kernel"] + p[f"dense{i}"]["bias"]
        y = y * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(y) if i < 2 else y
    out, _ = run(lambda *a: apply(head, *a, train=True), p, stats, x)
    np.testing.assert_allclose(out, y, rtol=1e-3, atol=1e-4)


def test_learned_positions_are_resized_for_smaller_crops():
    net = vit.build(**VIT | {"positions": "learned"})
    params, _ = fill(net, images())
    table = np.array(params["pos_embed"])
    table[:, 1:] = table[:, 1:2]  # the same everywhere: resized, it is that again

    def forward(net, p):
        return run(lambda p, x: apply(net, p, {}, x, train=False)[0], p, images(2, 8))

    small = forward(net, params | {"pos_embed": table})
    own = vit.build(**VIT | {"positions": "learned", "image_size": 8})
    wanted = forward(own, params | {"pos_embed": table[:, : 1 + 2 * 2]})
    assert small.shape == (2, 1 + 2 * 2, net.dim)
    np.testing.assert_allclose(small, wanted, atol=1e-5)
    table[:, 1:, 0] += np.linspace(0, 1, 9)
    assert np.abs(forward(net, params | {"pos_embed": table}) - small).max() > 1e-3
