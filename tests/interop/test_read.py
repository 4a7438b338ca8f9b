"""Weights of timm and transformers, as folders, are read: `jssl.interop.read`. The encoder of the
section that fits them has the outputs of the library. tests/golden/encoders.py made the numbers."""

import json
from functools import cache

import jax
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file

from jssl.config import UserError
from jssl.interop import adapt, convert, programs, read
from jssl.nn.apply import apply
from jssl.nn.positions import sincos

FILE = ROOT / "tests" / "golden" / "encoders.npz"


@cache
def golden():
    """{name: {"config": {...}, "state": {name: array}, "input": array, "output": array}}"""
    cases = {}
    with np.load(FILE) as arrays:
        for key in arrays.files:
            name, _, rest = key.partition("/")
            case = cases.setdefault(name, {"state": {}})
            if rest.startswith("state/"):
                array = arrays[key]
                wide = array.astype(np.float32) if array.dtype == np.float16 else array
                case["state"][rest.removeprefix("state/")] = wide
            elif rest == "config":
                case["config"] = json.loads(str(arrays[key]))
            else:
                case[rest] = arrays[key]
    cases.pop("versions")
    return cases


NAMES = list(golden())


def folder_of(path, name, **changes):
    """The case as a folder that its library has written."""
    case = golden()[name]
    state = {key: np.ascontiguousarray(x) for key, x in case["state"].items()}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(case["config"] | changes))
    return path


def outputs(weights, x):
    """The outputs of jssl's encoder."""
    channels = 0 if x.ndim == 2 else x.shape[-1]
    module, params, stats = programs.encoder(weights, channels)
    fast = {"xla_backend_optimization_level": 0}
    run = jax.jit(lambda *args: apply(module, *args, train=False)[0], compiler_options=fast)
    return np.asarray(run(params, stats, x))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_library(name, tmp_path):
    weights = read.read_weights(folder_of(tmp_path, name))
    case = golden()[name]
    np.testing.assert_allclose(outputs(weights, case["input"]), case["output"], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_the_same_state(name, tmp_path):
    """But for what is not read: heads, masks, running counts."""
    weights = read.read_weights(folder_of(tmp_path, name))
    case = golden()[name]
    back = convert.to_state(weights.layout, weights.encoder)
    bare = convert.bare_names(weights.layout, case["state"])
    assert back
    for key, value in back.items():
        if key.endswith("reg_token") and bare.get(key) is None:
            continue
        if name == "timm_registers" and key == "pos_embed":
            value = value[:, 1:]  # a row for the class token, which this file has not
        theirs = case["state"][bare[key]]
        if name == "roberta" and "position_embeddings" in key:
            value = value[2:]  # those of padding
            theirs = theirs[2:]
        np.testing.assert_array_equal(value, theirs)


def truncated(path):
    folder_of(path, "vit")
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def without_a_tensor(path):
    folder_of(path, "vit")
    state = dict(golden()["vit"]["state"])
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, path / "model.safetensors")


def with_a_tensor(path):
    folder_of(path, "dinov2")
    state = golden()["dinov2"]["state"] | {"other.weight": np.zeros(3, np.float32)}
    save_file(state, path / "model.safetensors")


def pickled(path):
    (path / "pytorch_model.bin").write_bytes(b"PK")
    (path / "config.json").write_text('{"model_type": "vit"}')


def looped(path):
    (path / "model.safetensors").symlink_to(path / "model.safetensors")


def bare(path):
    """A file whose names do not tell its epsilon and heads, without config.json."""
    folder_of(path, "vit")
    (path / "config.json").unlink()


def two_files(path):
    for name in ("a", "b"):
        save_file({"x": np.zeros(2, np.float32)}, path / f"{name}.safetensors")


def outside_index(path):
    (path / "config.json").write_text('{"model_type": "vit"}')
    index = {"weight_map": {"x": "../other.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def written(name, text):
    return lambda path: (path / name).write_text(text)


def changed(name, **changes):
    return lambda path: folder_of(path, name, **changes)


BAD = {
    "no weights": (lambda path: None, "holds no weights"),
    "truncated file": (truncated, "is it whole"),
    "no safetensors": (written("model.safetensors", "no tensors"), "is damaged"),
    "pickled file": (pickled, "convert it: python -c"),
    "wrong family": (changed("vit", model_type="swin"), "'swin' is no family of jssl"),
    "no config.json": (bare, "are of no family of jssl"),
    "config.json is no JSON": (written("config.json", "{"), "config.json is damaged"),
    "config.json is a list": (written("config.json", "[]"), "is no object"),
    "activation": (changed("vit", hidden_act="relu"), "hidden_act='relu' is not in jssl"),
    "relative positions": (
        changed("beit", use_relative_position_bias=True), "use_relative_position_bias=True"
    ),
    "heads": (changed("vit", num_attention_heads=4), "a size that jssl does not have"),
    "base of rotations": (changed("dinov3", rope_theta=10000.0), "rope_theta=10000.0"),
    "unknown tensor": (with_a_tensor, "has no place for 'other.weight'"),
    "two files": (two_files, "holds 2 files of safetensors"),
    "index leads outside": (outside_index, "lists no files of this folder"),
    "index is a list": (
        lambda path: (outside_index(path), written("model.safetensors.index.json", "[]")(path)),
        "index.json is damaged",
    ),
    "size is a text": (changed("dinov3", image_size="large"), "is damaged"),
    "preprocessor is no JSON": (
        lambda path: (folder_of(path, "vit"), written("preprocessor_config.json", "{")(path)),
        "preprocessor_config.json is damaged",
    ),
    "loop of links": (looped, "holds no weights|cannot be read"),
    "quickgelu": (
        changed("timm_vit", architecture="vit_base_patch16_clip_quickgelu_224"), "QuickGELU"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_one_line(what, tmp_path):
    make, message = BAD[what]
    make(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read.read_weights(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_path_that_is_nothing_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read.read_weights(tmp_path / "none")
    with pytest.raises(UserError, match="pickled"):
        file = tmp_path / "weights.pth"
        file.write_bytes(b"x")
        read.read_weights(file)


def test_a_missing_tensor_is_named(tmp_path):
    without_a_tensor(tmp_path)
    weights = read.read_weights(tmp_path)
    with pytest.raises(KeyError, match="blocks/1/mlp/fc2/kernel"):
        outputs(weights, golden()["vit"]["input"])


# ---- other sizes -------------------------------------------------------------------------------


def test_positions_are_resized_as_transformers_does():
    """A table that is linear in row and column is sampled at the centers of the new patches."""
    side = 8
    centers = (np.arange(side) + 0.5) / side
    table = np.stack(np.meshgrid(centers, centers, indexing="ij"), -1).reshape(1, -1, 2)
    table = np.concatenate([np.full((1, 1, 2), 9.0), table], 1).astype(np.float32)
    small = adapt.resized_positions(table, 1 + 4 * 4, class_token=True)
    assert small.shape == (1, 17, 2) and (small[0, 0] == 9).all()
    want = (np.arange(4) + 0.5) / 4
    np.testing.assert_allclose(
        small[0, 1:].reshape(4, 4, 2)[1:3, 1:3, 0], want[1:3, None] + [[0, 0]], atol=1e-6
    )


def test_larger_patches_embed_a_resized_patch_as_before():
    """FlexiViT: <enlarged patch, new kernel> = <patch, old kernel>."""
    from PIL import Image

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4 * 4 * 1, 5)).astype(np.float32)
    patch = rng.normal(size=(4, 4)).astype(np.float32)
    large = np.asarray(Image.fromarray(patch).resize((8, 8), Image.Resampling.BILINEAR))
    new = adapt.resized_patches(kernel, 1, 8)
    np.testing.assert_allclose(large.reshape(-1) @ new, patch.reshape(-1) @ kernel, atol=1e-4)


def test_a_gray_image_has_the_features_of_its_three_channels():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 5)).astype(np.float32)
    gray = rng.normal(size=(3, 3, 1)).astype(np.float32)
    want = np.einsum("hwc,hwcd->d", np.repeat(gray, 3, 2), kernel)
    got = np.einsum("hwc,hwcd->d", gray, adapt.other_channels(kernel, 3, 1))
    np.testing.assert_allclose(got, want, atol=1e-5)
    six = adapt.other_channels(kernel, 3, 6)
    np.testing.assert_allclose(six[..., 4, :], kernel[..., 1, :] / 2)


def test_a_larger_vocabulary_gets_the_mean_for_its_new_tokens():
    words = np.arange(6, dtype=np.float32).reshape(3, 2)
    shapes = {"tokens/embedding": np.zeros((5, 2)), "pos_embed": np.zeros((4, 2))}
    file = {"tokens/embedding": words, "pos_embed": np.ones((6, 2))}
    fitted, notes = adapt.fit(file, {}, {}, 3, shapes)
    np.testing.assert_array_equal(fitted["tokens/embedding"][:3], words)
    np.testing.assert_array_equal(fitted["tokens/embedding"][3:], [[2, 3], [2, 3]])
    assert fitted["pos_embed"].shape == (4, 2) and len(notes) == 2


def test_fixed_positions_become_the_start_of_learned_ones():
    model = {"positions": "sincos", "image_size": 8, "patch": 4, "class_token": True}
    fitted, _ = adapt.fit({}, model, {}, 3, {"pos_embed": np.zeros((1, 5, 8))})
    np.testing.assert_array_equal(fitted["pos_embed"][0], sincos(8, 2, True))
    learned = {"pos_embed": np.ones((1, 5, 8), np.float32)}
    with pytest.raises(UserError, match="use --config.model.positions=learned"):
        adapt.fit(learned, model, {}, 3, {})


def test_biases_that_timm_leaves_out_are_zero(tmp_path):
    """timm's vit_*_dinov3 have no q_bias and v_bias, and those with _qkvb have."""
    folder_of(tmp_path, "timm_rotary")
    state = golden()["timm_rotary"]["state"]
    less = {key: value for key, value in state.items() if not key.endswith(("q_bias", "v_bias"))}
    save_file(less, tmp_path / "model.safetensors")
    weights = read.read_weights(tmp_path)
    assert weights.model["key_bias"] is False
    assert not weights.encoder["blocks/1/attn/v_bias"].any()
    zero = {key: np.zeros_like(x) if key not in less else x for key, x in state.items()}
    save_file(zero, tmp_path / "model.safetensors")
    x = golden()["timm_rotary"]["input"]
    np.testing.assert_array_equal(outputs(weights, x), outputs(read.read_weights(tmp_path), x))
