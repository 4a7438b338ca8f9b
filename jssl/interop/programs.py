"""An encoder as a program: StableHLO for five years, and the bytes of `jax.export` for six months.

The program takes pixels as they are, uint8 [B, size, size, C], or tokens: ids int32 [B, L] and
segments int32 [B, L], 1 for a token and 0 for padding. B is any number. It returns the features,
float32 [B, D], on CPUs, CUDA GPUs and TPUs.
"""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jssl import errors, nn
from jssl.config import UserError
from jssl.interop import convert
from jssl.interop.weights import Weights
from jssl.nn.apply import apply, init

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = '''"""features(x) -> float32 [B, D]. It needs jax and flatbuffers."""

import pathlib

import jax
import numpy as np

exported = jax.export.deserialize(pathlib.Path(__file__).with_name("encoder.jax").read_bytes())


def features(*x: np.ndarray) -> np.ndarray:
    return np.asarray(exported.call(*x))
'''


def encoder(weights: Weights, channels: int) -> tuple[Any, Any, Any]:
    """(module in float32, its parameters, its statistics), without kernels of one platform."""
    section: dict[str, Any] = dict(weights.model) | {"dtype": "float32"}
    section |= {"attention": "xla"} if "attention" in section else {}
    section |= {"residual_dtype": "float32"} if "residual_dtype" in section else {}
    vocab = len(weights.encoder.get("tokens/embedding", ()))
    module = nn.encoder(section, vocab, packed=False)
    size = section.get("image_size", 64)
    if vocab:
        example = np.zeros((1, 8), np.int32)
    else:
        example = np.zeros((1, size, size, channels), np.float32)
    shapes: Any = jax.eval_shape(lambda: init(module, jax.random.key(0), example))
    params, stats = (convert.like(tree, weights.encoder) for tree in shapes)
    return module, params, stats


def features(weights: Weights, channels: int) -> Callable[..., jax.Array]:
    """The program of an encoder as a function.

    Args:
      weights: the encoder.
      channels: of the images; 0 for text.

    Returns:
      f(pixels) or f(ids, segments) -> features, as the text above says.
    """
    module, *variables = encoder(weights, channels)
    params, stats = jax.tree.map(jnp.asarray, variables)  # NumPy has no traced indices

    def image_features(x: jax.Array) -> jax.Array:
        pixels = x.astype(jnp.float32) / 255
        mean = jnp.asarray(weights.pixels["mean"], jnp.float32)
        std = jnp.asarray(weights.pixels["std"], jnp.float32)
        output, _ = apply(module, params, stats, (pixels - mean) / std, train=False)
        return module.features(output)

    def text_features(tokens: jax.Array, segment: jax.Array) -> jax.Array:
        hidden, _ = apply(module, params, stats, tokens, segment=segment, train=False)
        return module.features(hidden, segment)

    return image_features if channels else text_features


def write(folder: pathlib.Path, weights: Weights, size: int, channels: int) -> None:
    """Writes encoder.jax, encoder.stablehlo and load.py.

    Args:
      folder: an empty folder.
      weights: the encoder.
      size: side of the images, in pixels; of text the number of tokens.
      channels: of the images; 0 for text.
    """
    function = features(weights, channels)
    (batch,) = export.symbolic_shape("batch")
    if channels:
        inputs = [jax.ShapeDtypeStruct((batch, size, size, channels), jnp.uint8)]
    else:
        inputs = [jax.ShapeDtypeStruct((batch, size), jnp.int32)] * 2
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(f"--format=stablehlo needs flatbuffers; {errors.install('export')}")
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*inputs)
    (folder / "encoder.jax").write_bytes(exported.serialize())
    # A portable artifact of StableHLO, in its own versioned form.
    (folder / "encoder.stablehlo").write_bytes(exported.mlir_module_serialized)
    (folder / "load.py").write_text(LOADER, encoding="utf-8")
