"""Compares an ONNX program, in ONNX Runtime on the CPU, with the features of jssl."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jssl.interop import programs, verify
from jssl.interop.to_onnx import examples
from jssl.interop.weights import Weights

COUNTS = (2, 3)  # examples; the exporter saw 2


def compare(
    folder: pathlib.Path, weights: Weights, run: Mapping[str, Any], channels: int
) -> dict[str, float]:
    """The largest absolute difference between the features of both, for each input.

    Args:
      folder: has encoder.onnx.
      weights: the encoder.
      run: the config of the run.
      channels: of the images; 0 for text.

    Returns:
      {"random": difference, "digits": difference}; for text {"random": difference}. Each is the
      largest for two and for three examples.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(
        str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    ours = jax.jit(programs.features(weights, channels))
    return {
        name: max(difference(session, ours, arrays, count) for count in COUNTS)
        for name, arrays in inputs(weights, run, channels).items()
    }


def inputs(
    weights: Weights, run: Mapping[str, Any], channels: int
) -> dict[str, dict[str, np.ndarray]]:
    """Random examples and, for images, handwritten digits: {name: {input: array}}."""
    count = max(COUNTS)
    random = examples(weights, run, channels, count)
    if not channels:
        return {"random": random}
    digits = verify.digits_of(count, random["pixels"].shape[1], channels)
    return {"random": random, "digits": {"pixels": digits}}


def difference(session: Any, ours: Any, arrays: Mapping[str, np.ndarray], count: int) -> float:
    """The largest absolute difference for the first `count` examples."""
    few = {name: array[:count] for name, array in arrays.items()}
    with jax.default_matmul_precision("highest"):
        wanted = np.asarray(ours(*few.values()))
    return float(np.abs(session.run(["features"], few)[0] - wanted).max())
