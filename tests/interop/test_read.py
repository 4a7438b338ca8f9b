"""Weights of timm and transformers, as folders, are read: `jssl.interop.read`. The encoder of the
section that fits them has the outputs of the library. tests/golden/encoders.py made the numbers."""

import json
from functools import cache

import jax
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file

from jssl.interop import convert, programs, read
from jssl.nn.apply import apply

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
