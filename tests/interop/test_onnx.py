"""`jssl export --format=onnx`: what can be exported, and the features of the program.

The programs need torch, timm, transformers, onnxscript and onnxruntime, which the tests do not
install: without them those tests are skipped.
"""

import importlib

import numpy as np
import pytest
from conftest import ROOT
from interop.test_read import folder_of

from jssl.config import UserError
from jssl.interop import read, to_onnx, torch_models, verify, verify_onnx

PACKAGES = ("torch", "timm", "transformers", "onnxscript", "onnxruntime")
PIXELS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
CASES = [  # of tests/golden/encoders.npz, and a pooling
    ("resnet", ""),
    ("vit", "mean"),
    ("timm_registers", "mean"),
    ("dinov2_swiglu", "cls"),
    ("dinov3", "cls"),
    ("bert", "first"),
    ("bert", "mean"),
    ("gpt2", "last"),
]


@pytest.fixture
def libraries(monkeypatch):
    """Skips a test if a package is missing."""
    if absent := torch_models.missing(PACKAGES):
        pytest.skip(f"needs {', '.join(absent)}")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    importlib.import_module("peer_steps")  # timm needs torchvision, whose operators may be missing


def weights_of(path, name, pool="", **changes):
    """A small random encoder of a family."""
    weights = read.read_weights(folder_of(path, name))
    changes |= {"pool": pool} if pool else {}
    return weights._replace(model=weights.model | changes, pixels=weights.pixels or PIXELS)


def run_of(weights, **augment):
    """What an export reads of the config of a run."""
    size = weights.model.get("image_size", 64)
    return {"eval": {"size": 0, "crop_fraction": 0.875}, "augment": {"size": size} | augment}


@pytest.mark.parametrize(("name", "pool"), CASES)
def test_the_features_are_those_of_jssl(name, pool, libraries, tmp_path):
    """For two and for three examples; text has padding."""
    (tmp_path / "in").mkdir()
    weights = weights_of(tmp_path / "in", name, pool)
    channels = 0 if "length" in weights.model else 3
    run = run_of(weights)
    to_onnx.write(tmp_path, weights, run, channels, {"jssl_step": "7"})
    found = verify_onnx.compare(tmp_path, weights, run, channels)
    assert set(found) == ({"random", "digits"} if channels else {"random"})
    assert max(found.values()) <= 1e-5
    program = (tmp_path / "encoder.onnx").read_bytes()
    assert b"jssl_step" in program
    assert b'File "' not in program, "no source lines of the machine that made it"


def test_weights_of_two_gigabytes_have_a_file_of_their_own(libraries, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "LARGEST", 1)
    (tmp_path / "in").mkdir()
    weights = weights_of(tmp_path / "in", "resnet")
    to_onnx.write(tmp_path, weights, run_of(weights), 3, {})
    assert (tmp_path / "encoder.onnx.data").stat().st_size > 10_000
    assert max(verify_onnx.compare(tmp_path, weights, run_of(weights), 3).values()) <= 1e-5
    changed = weights._replace(encoder={key: x * 1.01 for key, x in weights.encoder.items()})
    found = verify_onnx.compare(tmp_path, changed, run_of(weights), 3)
    assert min(found.values()) > verify.LIMIT, "other weights are noticed"


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch):
    """Of the first library that has the encoder."""
    monkeypatch.setattr(torch_models, "missing", list)
    weights = weights_of(tmp_path, "timm_vit")
    with pytest.raises(UserError) as error:
        to_onnx.write(tmp_path, weights, run_of(weights), 3, {})
    assert "needs torch and timm and onnxscript here; pip install torch timm onnxscript" in str(
        error.value
    )


def test_an_encoder_goes_through_a_library_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_models, "missing", lambda packages: {"timm"} & set(packages))
    weights = weights_of(tmp_path, "timm_vit")
    assert to_onnx.library(weights, run_of(weights), 3)[0] == "hf"
    monkeypatch.setattr(torch_models, "missing", lambda packages: [])
    assert to_onnx.library(weights, run_of(weights), 3)[0] == "timm"


@pytest.mark.parametrize(
    ("name", "changes", "size", "message"),
    [
        ("resnet", {"stem": "cifar"}, 64, "have no such encoder; use --format=stablehlo"),
        ("gpt2", {"positions": "rotary"}, 64, "have no such encoder; use --format=stablehlo"),
        ("timm_vit", {}, 32, "have 32 pixels a side, and the positions of this ViT are for 16"),
    ],
)
def test_what_has_no_program_is_told_another_format(name, changes, size, message, tmp_path):
    weights = weights_of(tmp_path, name, **changes)
    channels = 0 if "length" in weights.model else 3
    with pytest.raises(UserError, match=message):
        to_onnx.write(tmp_path, weights, run_of(weights, size=size), channels, {})


def test_examples_of_text_have_padding_at_the_end(tmp_path):
    weights = weights_of(tmp_path, "bert")
    arrays = to_onnx.examples(weights, {}, 0, 3)
    np.testing.assert_array_equal(arrays["segments"].sum(1), [12, 6, 4])
    assert (np.diff(arrays["segments"], axis=1) <= 0).all()
