"""Counted FLOPs against published sizes, hand arithmetic and XLA's own count; nothing is run."""

import math

import jax
import jax.numpy as jnp
import pytest
from conftest import in_make_laws
from jax import lax

from jssl import nn
from jssl.nn.apply import apply, init
from jssl.perf.flops import count, peak

KEY = jax.random.key(0)
RESNET = {
    "stem": "imagenet",
    "width": 64,
    "zero_init_residual": False,
    "init": "torch",
    "dtype": "float32",
}
VIT = {
    "patch": 16,
    "image_size": 224,
    "class_token": True,
    "pool": "cls",
    "positions": "sincos",
    "drop_path": 0.0,
    "remat": "none",
    "scan": True,
    "attention": "auto",
    "init": "xavier",
    "dtype": "bfloat16",
    "residual_dtype": "float32",
}


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def forward(net, size, batch=1):
    """(loss, params): a scalar loss(params, images) of the training pass of `net`, abstract."""
    x = array(batch, size, size, 3)
    params, stats = jax.eval_shape(lambda x: init(net, KEY, x), x)

    def loss(params, x):
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), stats)
        return net.features(apply(net, params, zeros, x, train=True)[0]).mean()

    return loss, (params, x)


def xla(fn, *args):
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("section", "giga"),
    [
        # torchvision's table of weights (GFLOPS there are multiply-adds), at 224 px.
        (RESNET | {"name": "resnet18"}, 1.814),
        (RESNET | {"name": "resnet50"}, 4.089),
        (VIT | {"name": "vit_b"}, 17.564),
        (VIT | {"name": "vit_l"}, 61.555),
    ],
)
def test_published_sizes(section, giga):
    loss, args = forward(nn.encoder(section), 224)
    assert count(loss, *args) == pytest.approx(2e9 * giga, rel=0.002)


@in_make_laws
def test_backward_is_twice_forward_but_for_the_images_gradient():
    loss, args = forward(nn.encoder(RESNET | {"name": "resnet50"}), 224)
    first = 2 * 112 * 112 * 64 * 7 * 7 * 3  # conv1: the images need no gradient
    assert count(jax.value_and_grad(loss), *args) == 3 * count(loss, *args) - first


@pytest.mark.parametrize(
    ("section", "size", "depths"),
    [
        # XLA leaves out the taps on padding: at 1024 px they are few.
        (RESNET | {"name": "resnet18"}, 1024, {"depths": (1, 1, 1, 1)}),
        (VIT | {"name": "vit_b", "scan": False, "dtype": "float32"}, 224, {"depth": 2}),
    ],
)
def test_close_to_what_xla_counts(section, size, depths):
    loss, args = forward(nn.encoder(section).clone(**depths), size)
    assert count(loss, *args) == pytest.approx(xla(loss, *args), rel=0.03)
    both = jax.value_and_grad(loss)
    assert count(both, *args) == pytest.approx(xla(both, *args), rel=0.03)


def test_scanned_layers_count_as_unrolled_ones():
    net = nn.encoder(VIT | {"name": "vit_test"}).clone(depth=5)
    counts = []
    for scan in (True, False):
        loss, args = forward(net.clone(scan=scan), 224)
        counts.append(count(jax.value_and_grad(loss), *args))
    assert counts[0] == counts[1]


def test_remat_counts_what_is_computed_again():
    """Of a block's matrix products "dots" repeats attention's two, which have a batch dimension;
    "full" repeats all but fc2's, whose output no gradient needs."""
    tokens, dim = 197, 32
    dense, product = 2 * tokens * dim**2, 2 * tokens**2 * dim
    counts = {}
    for remat in ("none", "dots", "full"):
        section = VIT | {"name": "vit_test", "remat": remat, "scan": False}
        loss, args = forward(nn.encoder(section).clone(depth=1), 224)
        counts[remat] = count(jax.grad(loss), *args)
    assert counts["dots"] - counts["none"] == 2 * product
    assert counts["full"] - counts["none"] == (3 + 1 + 4) * dense + 2 * product


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), [(9, 3, 2, 1), (8, 5, 3, 2), (6, 1, 2, 0)]
)
def test_convolution_and_its_gradients(groups, size, kernel, stride, pad):
    side = (size + 2 * pad - kernel) // stride + 1
    once = 2 * 2 * side**2 * kernel**2 * (8 // groups) * 16

    def loss(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        pads = [(pad, pad)] * 2
        y = lax.conv_general_dilated(
            x, w, (stride, stride), pads, dimension_numbers=dims, feature_group_count=groups
        )
        return (y**2).sum()

    args = array(2, size, size, 8), array(kernel, kernel, 8 // groups, 16)
    assert count(loss, *args) == once
    assert count(jax.grad(loss, argnums=0), *args) == 2 * once
    assert count(jax.grad(loss, argnums=1), *args) == 2 * once
    assert count(jax.grad(loss, argnums=(0, 1)), *args) == 3 * once


def test_dilated_kernel_counts_its_taps():
    def atrous(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "VALID", rhs_dilation=(2, 2), dimension_numbers=dims
        )

    assert count(atrous, array(1, 9, 9, 3), array(3, 3, 3, 4)) == 2 * 5 * 5 * 9 * 3 * 4


def test_batched_matrix_product():
    def fn(a, b):
        return jnp.einsum("bij,bjk->bik", a, b)

    assert count(fn, array(5, 2, 3), array(5, 3, 7)) == 2 * 5 * 2 * 3 * 7


def test_control_flow():
    def square(x):
        return x @ x

    once = 2 * 4**3
    x = array(4, 4)
    assert count(lambda x: lax.fori_loop(0, 6, lambda _, x: x @ x, x), x) == 6 * once

    def unknown(x):
        return lax.while_loop(lambda x: x.sum() < 9, square, x)

    assert count(unknown, x) == once

    def twice(x):
        return x @ x @ x

    def branches(x):
        return lax.cond(x.sum() > 0, square, twice, x)

    assert count(branches, x) == 2 * once
    assert count(jax.jit(lambda x: jax.checkpoint(square)(x)), x) == once

    def nested(x):
        return lax.scan(lambda x, _: (lax.cond(x.sum() > 0, square, twice, x), 0), x, length=3)

    assert count(nested, x) == 6 * once


def test_custom_derivatives():
    @jax.custom_vjp
    def cube(x):
        return x @ x @ x

    cube.defvjp(lambda x: (x @ x @ x, x), lambda x, g: (g @ x,))
    once = 2 * 4**3
    assert count(cube, array(4, 4)) == 2 * once
    assert count(jax.value_and_grad(lambda x: cube(x).sum()), array(4, 4)) == 3 * once


def test_results_that_nothing_uses_do_not_count():
    assert count(lambda x: ((x @ x), x + 1)[1], array(4, 4)) == 0


def test_shard_map_counts_on_every_shard():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    fn = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec)
    assert count(fn, array(8, 3), array(3, 5)) == 2 * 8 * 3 * 5


def test_what_makes_the_views_does_not_count():
    def loss(w, x):
        with jax.named_scope("augment"):
            x = jax.jit(lambda x: lax.scan(lambda x, _: (x @ x, None), x, length=3)[0])(x)
        with jax.named_scope("augmented"):  # another scope: counted
            return (w @ x).sum()

    w, x = array(4, 4), array(4, 4)
    assert count(loss, w, x) == 2 * 4**3
    assert count(jax.value_and_grad(loss), w, x) == 2 * 2 * 4**3


def test_fused_attention_counts_as_the_plain_one(monkeypatch):
    """cuDNN's primitives hold no jaxpr; here they are bound without the library."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91900, raising=False)
    q = jax.ShapeDtypeStruct((2, 64, 4, 32), jnp.bfloat16)

    def loss(implementation):
        attend = jax.nn.dot_product_attention
        return lambda q, k, v: attend(q, k, v, implementation=implementation).sum()

    try:
        fast = count(jax.value_and_grad(loss("cudnn"), argnums=(0, 1, 2)), q, q, q)
    except RuntimeError as error:
        pytest.skip(f"this jax cannot trace cuDNN attention without a GPU: {error}")
    assert fast == count(jax.value_and_grad(loss("xla"), argnums=(0, 1, 2)), q, q, q)
    assert fast == 6 * 2 * math.prod(q.shape) * 64


def test_peak():
    assert peak("NVIDIA H200") == 989e12
    assert peak("TPU v5 lite") == 197e12
    assert peak("cpu") is None
