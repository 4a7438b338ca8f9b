"""Networks against PyTorch's: the same weights, through `jssl.interop.convert`, give the same
outputs and gradients as timm's ViT and Hugging Face's BERT and GPT-2. tests/golden/torch_models.py
made the numbers. Then what text encoders do that those models do not."""

import math
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jssl import nn
from jssl.config import UserError
from jssl.interop import convert
from jssl.nn import positions, transformer
from jssl.nn.apply import apply, init

FILE = ROOT / "tests" / "golden" / "torch_models.npz"
KEY = jax.random.key(0)
LAYOUT = {"vit": "timm_vit", "bert": "hf_bert", "gpt2": "hf_gpt2"}
HOW = {"remat": "none", "scan": False, "attention": "auto", "dtype": "float32"}
HOW["residual_dtype"] = "float32"
VIT = HOW | {
    "name": "vit_test",
    "patch": 4,
    "image_size": 12,
    "class_token": True,
    "pool": "cls",
    "positions": "learned",
    "drop_path": 0.0,
    "init": "trunc02",
}
BERT = HOW | {
    "name": "bert_test",
    "length": 12,
    "positions": "learned",
    "pool": "mean",
    "dropout": 0.0,
    "init": "bert",
}
GPT = BERT | {"name": "gpt_test", "init": "gpt"}
TEXT = {"bert": BERT, "gpt2": GPT}


@cache
def golden(model):
    """{"state": {name: array}, "gradient": ..., "input": ..., "output": array, "weight": array}"""
    tree = {"state": {}, "gradient": {}, "input": {}}
    with np.load(FILE) as arrays:
        for key in arrays.files:
            first, *rest = key.split("/")
            if first == model and len(rest) == 2:
                tree[rest[0]][rest[1]] = arrays[key]
            elif first == model:
                tree[rest[0]] = arrays[key]
    return tree


def network(model, **change):
    """Ours, as narrow as the golden one."""
    section = {"vit": VIT, **TEXT}[model] | change
    net = nn.encoder(section, vocab=23).clone(dim=16)
    return net.clone(mlp_width=64) if model == "vit" else net


def trees(model, named, scan=False):
    """Our parameters from {our name: array}."""
    first = next(iter(golden(model)["input"].values()))
    shapes = jax.eval_shape(lambda x: init(network(model, scan=scan), KEY, x)[0], first)
    return convert.like(shapes, named)


def from_state(model, state, scan=False):
    """Our parameters from a state dict."""
    return trees(model, convert.from_state(LAYOUT[model], state), scan)


def compiled(fn):
    """fn as one program, whose results are NumPy arrays."""
    program = jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *args: jax.tree.map(np.asarray, program(*args))


def run(fn, *args):
    return compiled(fn)(*args)


def close(ours, theirs):
    """Within 1e-4 of each number, or 1e-5 of the array's largest."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("model", LAYOUT)
def test_outputs_and_gradients_equal_pytorchs(model, scan):
    case, net = golden(model), network(model, scan=scan)
    params = from_state(model, case["state"], scan)
    inputs = dict(case["input"])
    first = inputs.pop("images" if model == "vit" else "tokens")

    def loss(params):
        out, _ = apply(net, params, {}, first, train=True, **inputs)
        return (out * case["weight"]).sum(), out

    grads, out = run(jax.grad(loss, has_aux=True), params)
    real = np.broadcast_to(inputs.get("segment", np.ones(out.shape[:2])) > 0, out.shape[:2])
    close(out[real], case["output"][real])
    jax.tree.map(close, grads, from_state(model, case["gradient"], scan))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("model", LAYOUT)
def test_there_and_back_is_the_same_state_dict(model, scan):
    state = golden(model)["state"]
    params = jax.tree.map(np.asarray, from_state(model, state, scan))
    back = convert.to_state(LAYOUT[model], convert.flat(params))
    assert set(back) == set(state)
    for key, value in state.items():
        assert back[key].dtype == value.dtype and back[key].flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize(
    ("model", "prefix", "extra"),
    [
        ("vit", "", "head.weight"),
        ("bert", "bert.", "cls.predictions.bias"),
        ("bert", "", "pooler.dense.weight"),
        ("gpt2", "transformer.", "lm_head.weight"),
        ("gpt2", "", "h.0.attn.bias"),
    ],
)
def test_models_with_heads_are_read_as_well(model, prefix, extra):
    state = golden(model)["state"]
    other = {f"{prefix}{key}": value for key, value in state.items()} | {extra: np.zeros(3)}

    def old(key):
        return key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")

    other = {old(key): value for key, value in other.items()}
    want, got = from_state(model, state), from_state(model, other)
    chex.assert_trees_all_equal(got, want)


@pytest.mark.parametrize("model", LAYOUT)
def test_our_shapes_are_theirs(model):
    first = next(iter(golden(model)["input"].values()))
    ours = jax.eval_shape(lambda x: init(network(model), KEY, x)[0], first)
    theirs = from_state(model, golden(model)["state"])
    chex.assert_trees_all_equal_shapes(ours, theirs)


def test_state_dicts_that_do_not_fit_are_refused():
    state = golden("bert")["state"]
    with pytest.raises(UserError, match="'timm_vi' are not known; did you mean 'timm_vit'"):
        convert.from_state("timm_vi", state)
    with pytest.raises(UserError, match="has no place for 'other'$"):
        convert.from_state("hf_bert", state | {"other": np.zeros(3)})
    gpt2 = convert.from_state("hf_gpt2", golden("gpt2")["state"])
    with pytest.raises(UserError, match="hf_resnet has no place for the encoder's 'blocks"):
        convert.to_state("hf_resnet", gpt2)
    vit = convert.from_state("timm_vit", golden("vit")["state"])
    with pytest.raises(UserError, match="channels=4"):
        convert.to_state("timm_vit", vit, channels=4)


# ---- text encoders -----------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("model", TEXT)
def test_documents_in_one_row_are_as_if_alone(model, positions):
    """The goldens' documents of 7 and 5 tokens, one after the other, then padding."""
    case, net = golden(model), network(model, positions=positions).clone(length=16)
    params = from_state(model, case["state"])
    table = np.pad(params["pos_embed"], ((0, 4), (0, 0)), constant_values=np.nan)  # not to be read
    params |= {"pos_embed": table}
    tokens, segment = case["input"]["tokens"], case["input"]["segment"]

    def ours(p, *args):
        return apply(net, p, {}, args[0], train=False, segment=args[1])[0]

    alone = case["output"] if positions == "learned" else run(ours, params, tokens, segment)
    row = np.concatenate([tokens[0], tokens[1, :5], [9, 9]])[None]
    both = run(ours, params, row, np.array([[1] * 7 + [2] * 5 + [0] * 2]))
    close(both[0, :7], alone[0])
    close(both[0, 7:12], alone[1, :5])
    assert np.isfinite(both).all()
    if positions == "rotary":  # and they matter
        assert np.abs(alone - case["output"])[segment > 0].max() > 0.1


def test_rotary_attention_sees_distances_only():
    x = np.random.default_rng(0).normal(size=(1, 6, 16)).astype(np.float32)
    attention = transformer.Attention(2, "auto", jax.nn.initializers.normal(1), jnp.float32)
    q = x.reshape(1, 6, 2, 8)

    def outputs(x, q):
        turn, far = (positions.rotary_angles(jnp.arange(6)[None] + start, 8) for start in (0, 50))
        params = attention.init(KEY, x, angles=turn)
        seen = [attention.apply(params, x, angles=angles) for angles in (turn, far, None)]
        return *seen, positions.apply_rotary(q, turn)

    near, moved, unturned, turned = run(outputs, x, q)
    np.testing.assert_allclose(moved, near, rtol=1e-3, atol=1e-3)
    assert np.abs(near - unturned).max() > 1
    plane = q[0, 2, 1, 1] + 1j * q[0, 2, 1, 5]  # features i and i + dim / 2 as one number
    plane = plane * np.exp(2j * 10000 ** (-2 / 8))
    np.testing.assert_allclose(turned[0, 2, 1, [1, 5]], [plane.real, plane.imag], rtol=1e-5)


def test_features_leave_padding_out():
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    segment = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])

    def pool(hidden, segment):
        nets = {name: network("bert", pool=name) for name in ("first", "mean", "last")}
        given = {name: net.features(hidden, segment) for name, net in nets.items()}
        return given, {name: nets[name].features(hidden) for name in ("mean", "last")}

    padded, whole = run(pool, hidden, segment)
    np.testing.assert_array_equal(padded["first"], hidden[:, 0])
    mean = [hidden[0, :3].mean(0), hidden[1].mean(0), np.zeros(4)]  # an empty row is finite
    np.testing.assert_allclose(padded["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(whole["mean"], hidden.mean(1), rtol=1e-5)
    np.testing.assert_array_equal(padded["last"][:2], [hidden[0, 2], hidden[1, 4]])
    np.testing.assert_array_equal(whole["last"], hidden[:, 4])


def passes(net, train):
    """f(params, inputs, seed of the dropout): the output of a pass in training or evaluation."""

    def see(params, inputs, seed):
        rngs = {"dropout": jax.random.key(seed)} if train else None
        return apply(net, params, {}, **inputs, train=train, rngs=rngs)[0]

    return compiled(see)


@pytest.mark.parametrize("model", TEXT)
def test_dropout_of_embeddings_is_of_training_only(model):
    case, net = golden(model), network(model, dropout=0.5)
    params = from_state(model, case["state"])
    plain = passes(network(model), False)(params, case["input"], 0)
    np.testing.assert_array_equal(passes(net, False)(params, case["input"], 0), plain)
    for layer in params["blocks"].values():  # which then add nothing
        for dense in (layer["attn"]["proj"], layer["mlp"]["fc2"]):
            dense.update(kernel=np.zeros_like(dense["kernel"]), bias=np.zeros_like(dense["bias"]))
    train = passes(net, True)
    one, other = (train(params, case["input"], seed) for seed in range(2))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_of_branches_is_independent(scan):
    """Each of four branches is 1 everywhere: it adds 0 or 2 to each feature."""
    how = dict(depth=2, dim=16, heads=2, hidden=64, drop_path=0.0, remat="full", scan=scan)
    how |= dict(attention="auto", initializer=jax.nn.initializers.zeros, dtype=jnp.float32)
    how["residual_dtype"] = jnp.float32
    net = transformer.Blocks(**how, style=transformer.BlockConfig(dropout=0.5))
    x = np.zeros((40, 8, 16), np.float32)

    def name(path):
        return jax.tree_util.keystr(path, simple=True, separator="/")

    def one(path):
        return name(path).endswith(("proj/bias", "fc2/bias"))

    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, one(path), np.float32),
        jax.eval_shape(lambda x: init(net, KEY, x)[0], x),
    )
    sums, counts = np.unique(passes(net, True)(params, {"x": x}, 0), return_counts=True)
    np.testing.assert_array_equal(sums, [0, 2, 4, 6, 8])
    np.testing.assert_allclose(counts / x.size, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda p: apply(net, p, {}, x, train=True), params)


@pytest.mark.parametrize(
    ("name", "length", "vocab", "published"),
    [
        ("gpt2", 1024, 50257, 124_439_808),  # Hugging Face's "gpt2"
        ("bert_base", 512, 30522, 109_482_240 - 590_592),  # its "bert-base-uncased" less the pooler
        ("bert_large", 512, 30522, 335_141_888 - 1_049_600),
    ],
)
def test_the_published_number_of_parameters(name, length, vocab, published):
    net = nn.encoder(BERT | {"name": name, "length": length, "scan": True}, vocab)
    params = jax.eval_shape(lambda x: init(net, KEY, x)[0], jax.ShapeDtypeStruct((1, 8), int))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == published


def test_text_starts_as_named():
    tokens = np.zeros((1, 8), np.int32)
    bert, gpt = (nn.encoder(section | {"scan": True}, 999) for section in (BERT, GPT))
    bert, gpt = run(lambda x: [init(net, KEY, x)[0] for net in (bert, gpt)], tokens)
    for params, bound, last in ((bert, 0.04, 0.0176), (gpt, math.inf, 0.01)):  # 2 layers: half
        layer, cut = params["blocks"]["layers"], 0.0176 if bound < 1 else 0.02
        for leaf in (params["tokens"]["embedding"], layer["mlp"]["fc1"]["kernel"]):
            assert np.std(leaf) == pytest.approx(cut, rel=0.05)
            assert 0.9 * min(bound, 0.06) < np.abs(leaf).max() <= bound
        for kernel in (layer["mlp"]["fc2"]["kernel"], layer["attn"]["proj"]["kernel"]):
            assert np.std(kernel) == pytest.approx(last, rel=0.05)
        assert not layer["attn"]["qkv"]["bias"].any()


@pytest.mark.parametrize(
    ("section", "vocab", "said"),
    [
        (BERT, 0, "model.name='bert_test': reads text, and the source has no tokenizer"),
        (BERT | {"vocab": 9}, 9, "config.model.vocab is not a key"),
        (BERT | {"dropout": 1.0}, 9, "model.dropout=1.0"),
        (BERT | {"positions": "sincos"}, 9, "model.positions='sincos'"),
        (GPT | {"pool": "first"}, 9, "model.pool='first'"),
        (BERT | {"init": "xavier"}, 9, "model.init='xavier'"),
    ],
)
def test_wrong_text_sections_name_the_key(section, vocab, said):
    with pytest.raises(UserError) as error:
        nn.encoder(section, vocab)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_rows_longer_than_the_table_are_refused():
    with pytest.raises(UserError, match="model.length=12: the rows have 13 tokens; set it to"):
        jax.eval_shape(lambda x: init(network("gpt2"), KEY, x), np.zeros((1, 13), np.int32))
