"""Attention: which kernel, the token that makes a count even, lengths in place of a mask, and the
dtype of the residual stream."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import nn
from jssl.config import UserError
from jssl.nn import attention, text, transformer
from jssl.nn.apply import apply, init

KEY = jax.random.key(0)
TEXT = dict(
    name="bert_test", length=12, positions="learned", pool="mean", dropout=0.0, remat="none",
    scan=False, attention="auto", init="bert", dtype="float32", residual_dtype="float32",
)  # fmt: skip


class Gpu:
    """A device that says which GPU it is."""

    def __init__(self, capability: str):
        self.compute_capability = capability


@pytest.fixture
def gpu(monkeypatch):
    """Makes jax report a GPU of a compute capability."""

    def pretend(backend="gpu", capability="9.0", flags=""):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(jax, "devices", lambda: [Gpu(capability)])
        monkeypatch.setenv("XLA_FLAGS", flags)

    return pretend


HALF = "bfloat16"
WIDE = (2, 196, 12, 160)
EXACT = "--a=1 --xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("machine", "dtype", "shape", "choice", "wanted"),
    [
        ({}, HALF, (2, 196, 12, 64), "auto", "cudnn"),
        ({}, HALF, (2, 197, 12, 64), "auto", "cudnn"),
        ({}, "float32", (2, 196, 12, 64), "auto", "xla"),
        ({}, HALF, WIDE, "auto", "cudnn"),
        ({"capability": "8.0"}, HALF, WIDE, "auto", "xla"),
        ({"capability": "8.9"}, HALF, (2, 196, 12, 128), "auto", "cudnn"),
        ({}, HALF, (2, 196, 12, 264), "auto", "xla"),
        ({}, HALF, (2, 196, 12, 20), "auto", "xla"),
        ({"flags": EXACT}, HALF, (2, 196, 12, 64), "auto", "xla"),
        ({"flags": "--xla_gpu_deterministic_ops"}, HALF, (2, 196, 12, 64), "auto", "xla"),
        ({"flags": "--xla_gpu_deterministic_ops=false"}, HALF, (2, 196, 12, 64), "auto", "cudnn"),
        ({}, HALF, (2, 196, 12, 64), "xla", "xla"),
        ({"backend": "cpu"}, HALF, (2, 196, 12, 64), "auto", "xla"),
        ({"backend": "tpu"}, HALF, (2, 196, 12, 64), "auto", "recompute"),
        ({"backend": "cpu"}, "float32", (2, 197, 12, 64), "cudnn", "cudnn"),
    ],
)
def test_flash_attention_where_it_applies(gpu, machine, dtype, shape, choice, wanted):
    gpu(**machine)
    q = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    assert attention.implementation(choice, q) == wanted


def test_tpus_compute_the_weights_again(monkeypatch):
    monkeypatch.setattr(attention, "on_tpu", lambda: True)
    q = jax.ShapeDtypeStruct((2, 196, 12, 64), jnp.bfloat16)
    assert attention.implementation("auto", q) == "recompute"
    assert attention.implementation("xla", q) == "xla"


def test_flash_attention_is_refused_where_bits_must_repeat(gpu):
    gpu(flags=EXACT)
    with pytest.raises(UserError, match="model.attention='cudnn'.*use 'xla'"):
        attention.implementation("cudnn", jax.ShapeDtypeStruct((2, 4, 1, 8), jnp.bfloat16))


@pytest.mark.parametrize(
    "shape", [(2, 197, 3, 64), (2, 50, 3, 64), (2, 17, 2, 256)], ids=lambda s: f"{s[1]}x{s[3]}"
)
@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "lengths"])
def test_cudnn_takes_every_token_count_in_training(monkeypatch, shape, kind):
    """Traced with the checks of jax itself, on a Hopper that is pretended."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91900)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda wanted: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda wanted: False)
    more = {
        "plain": {},
        "causal": {"causal": True},
        "mask": {"mask": jax.device_put(np.ones((2, 1, shape[1], shape[1]), bool))},
        "lengths": {"lengths": jax.device_put(np.int32([3, shape[1]]))},
    }[kind]
    q = jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def total(q):
        return attention.attend(q, q, q, choice="cudnn", **more).astype(jnp.float32).sum()

    traced = jax.make_jaxpr(jax.grad(total))(q)
    assert "dot_product_attention_bwd" in str(traced)
    assert traced.out_avals[0].shape == shape


@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "lengths"])
def test_one_more_token_changes_nothing(kind):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 7, 2, 8)).astype(np.float32) for _ in range(3))
    more = {
        "plain": {},
        "causal": {"causal": True},
        "mask": {"mask": (rng.random((2, 1, 7, 7)) < 0.6) | np.eye(7, dtype=bool)},
        "lengths": {"lengths": np.int32([3, 7])},
    }[kind]
    causal = more.pop("causal", False)

    def call(mask=None, lengths=None):
        return (q, k, v, mask, lengths)

    def plain(q, k, v, mask, lengths):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=causal, key_value_seq_lengths=lengths
        )

    def padded(*given):
        return plain(*attention._even(*given))[:, :7]

    weight = np.float32(rng.normal(size=(2, 7, 2, 8)))

    @partial(jax.jit, static_argnums=0)
    def value_and_grads(way, *given):
        def loss(q, k, v, *rest):
            return (way(q, k, v, *rest) * weight).sum()

        value, grads = jax.value_and_grad(loss, (0, 1, 2))(*given)
        return value, *grads

    both = [value_and_grads(way, *call(**more)) for way in (plain, padded)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


VISIBLE = {
    "plain": {},
    "causal": {"causal": True},
    "mask": {"mask": (np.random.default_rng(3).random((2, 1, 7, 7)) < 0.6) | np.eye(7, dtype=bool)},
    "lengths": {"causal": True, "lengths": np.int32([3, 7])},
}


@pytest.mark.parametrize("kind", list(VISIBLE))
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-6), ("bfloat16", 0.05)])
def test_recomputed_weights_give_the_same_gradients(kind, dtype, atol):
    rng = np.random.default_rng(0)
    q, k, v, grad = (jnp.asarray(rng.normal(size=(2, 7, 2, 8)), dtype) for _ in range(4))

    @partial(jax.jit, static_argnums=0)
    def value_and_grads(choice):
        def call(q, k, v):
            return attention.attend(q, k, v, choice=choice, **VISIBLE[kind])

        out, pullback = jax.vjp(call, q, k, v)
        return out, *pullback(grad)

    for ours, wanted in zip(value_and_grads("recompute"), value_and_grads("xla"), strict=True):
        assert ours.dtype == wanted.dtype
        np.testing.assert_allclose(np.float32(ours), np.float32(wanted), atol=atol)


def test_no_weights_are_kept_for_the_backward_pass():
    x = jax.ShapeDtypeStruct((2, 50, 3, 8), jnp.bfloat16)

    def kept(choice):
        def call(q, k, v):
            return attention.attend(q, k, v, choice=choice, lengths=np.int32([9, 50]))

        pullback = jax.eval_shape(lambda *qkv: jax.vjp(call, *qkv)[1], x, x, x)
        return [leaf.shape for leaf in jax.tree.leaves(pullback) if leaf.shape[-2:] == (50, 50)]

    assert kept("xla") and not kept("recompute")


@pytest.mark.parametrize("name", ["bert_test", "gpt_test"])
def test_lengths_equal_the_mask_of_one_document(name):
    """What real tokens see is the same; no [T, T] mask is made."""
    section = TEXT | {"name": name, "init": name[:4].rstrip("_")}
    tokens = np.random.default_rng(0).integers(0, 20, (3, 12)).astype(np.int32)
    segment = (np.arange(12) < np.array([[12], [5], [1]])).astype(np.int32)
    packed = nn.encoder(section, vocab=20, packed=True)
    single = nn.encoder(section, vocab=20, packed=False)
    shorter = (np.arange(12) < np.array([[12], [6], [1]])).astype(np.int32)
    rng = np.random.default_rng(1)

    def draw(path, x):
        is_scale = path[-1].key == "scale"  # of a LayerNorm
        return np.float32(is_scale + 0.02 * rng.normal(size=x.shape))

    shapes, _ = jax.eval_shape(partial(init, packed), KEY, tokens)
    params = jax.tree_util.tree_map_with_path(draw, shapes)

    @partial(jax.jit, static_argnums=0)
    def see(net, params, segment):
        return apply(net, params, {}, tokens, segment=segment, train=False)[0]

    outs = [np.asarray(see(net, params, segment)) for net in (packed, single)]
    np.testing.assert_allclose(outs[0][segment > 0], outs[1][segment > 0], atol=1e-5)
    moved = np.asarray(see(single, params, shorter))
    assert np.abs(moved - outs[1])[1, :5].max() > (1e-4 if name == "bert_test" else -1)


def test_the_residual_stream_keeps_its_own_dtype():
    """bfloat16 products on a float32 stream are nearer to float32 than on a bfloat16 stream."""
    vit = dict(
        name="vit_test", patch=4, image_size=32, class_token=True, pool="mean",
        positions="sincos", drop_path=0.0, remat="none", scan=True, attention="xla",
        init="xavier", dtype="float32", residual_dtype="float32",
    )  # fmt: skip
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    net = nn.encoder(vit).clone(depth=12)
    params = jax.jit(partial(init, net))(KEY, images)[0]
    options = {"xla_allow_excess_precision": False}  # XLA must round where the program says so
    features = {}
    for dtype, stream in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16",) * 2):
        other = net.clone(dtype=jnp.dtype(dtype), residual_dtype=jnp.dtype(stream))
        see = partial(apply, other, train=False)
        tokens = jax.jit(see, compiler_options=options)(params, {}, images)[0]
        features[dtype, stream] = np.asarray(tokens, np.float32)
    exact = features["float32", "float32"]
    error = [np.linalg.norm(features["bfloat16", s] - exact) for s in ("float32", "bfloat16")]
    assert 0 < 1.3 * error[0] < error[1]


def test_a_stream_below_the_products_is_refused():
    with pytest.raises(UserError, match="model.residual_dtype='bfloat16'.*use 'float32'"):
        transformer.residual("bfloat16", "float32")
    assert text.TextEncoder.__dataclass_fields__["packed"].default is True
