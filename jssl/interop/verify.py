"""Compares an exported folder, loaded by the real library, with the encoder of jssl."""

import importlib
import pathlib
from typing import Any

import jax
import numpy as np

from jssl.config import UserError
from jssl.data import files
from jssl.data.sources import digits
from jssl.interop import programs, torch_models
from jssl.interop.weights import Weights
from jssl.nn.apply import apply

LIMIT = 1e-4  # of a difference in float32
NEEDS = torch_models.NEEDS | {"onnx": ("onnxruntime",)}


def check_possible(kind: str) -> None:
    """Raises `UserError` if a format cannot be compared, or not on this machine."""
    if kind not in NEEDS:
        raise UserError(f"--verify is for --format={', '.join(NEEDS)}; leave it out")
    if absent := torch_models.missing(NEEDS[kind]):
        packages = " and ".join(absent)
        raise UserError(
            f"--verify needs {packages} here, to load the folder; install it, or leave out --verify"
        )


def compare(theirs: Any, weights: Weights, channels: int) -> dict[str, float]:
    """The largest absolute difference between the outputs of both, for each input.

    The outputs are all tokens after the last LayerNorm; of a ResNet, its pooled features.

    Args:
      theirs: f(examples) -> outputs, of `loaded`.
      weights: the encoder.
      channels: of the images.

    Returns:
      {"random": difference, "digits": difference}; for text {"random": difference}.
    """
    ours = encoder_of(weights, channels)
    return {
        name: float(np.abs(ours(x) - theirs(x)).max())
        for name, x in inputs(weights, channels).items()
    }


def inputs(weights: Weights, channels: int) -> dict[str, np.ndarray]:
    """Two random examples and, for images, two handwritten digits."""
    rng = np.random.default_rng(0)
    model = weights.model
    if "length" in model:
        vocab = weights.encoder["tokens/embedding"].shape[0]
        return {"random": rng.integers(0, vocab, (2, min(model["length"], 64)), np.int32)}
    size = model.get("image_size", 64)
    random = rng.normal(size=(2, size, size, channels)).astype(np.float32)
    return {"random": random, "digits": real_images(size, channels)}


def real_images(size: int, channels: int) -> np.ndarray:
    """Two handwritten digits, float32 [2, size, size, C] with mean 0 and deviation 1."""
    x = digits_of(2, size, channels).astype(np.float32)
    return (x - x.mean()) / x.std()


def digits_of(count: int, size: int, channels: int) -> np.ndarray:
    """Handwritten digits, enlarged, uint8 [count, size, size, C]."""
    images = digits.load("train")[0][:count]
    repeat = -(-size // images.shape[1])
    large = np.repeat(np.repeat(images, repeat, 1), repeat, 2)[:, :size, :size, :1]
    return np.repeat(large, channels, 3)


def encoder_of(weights: Weights, channels: int) -> Any:
    """f(examples) -> the outputs of jssl's encoder in float32."""
    module, params, stats = programs.encoder(weights, channels)

    @jax.jit
    def run(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return apply(module, params, stats, x, train=False)[0]

    return lambda x: np.asarray(run(params, stats, x))


def loaded(kind: str, folder: pathlib.Path, weights: Weights) -> Any:
    """f(images or tokens) -> the outputs of the folder in the real library."""
    torch = importlib.import_module("torch")
    model = torch_models.load(kind, folder, weights)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            inputs = torch.tensor(x).long() if x.ndim == 2 else images_to(torch, x)
            return model.outputs(inputs).numpy()

    return run


def images_to(torch: Any, x: np.ndarray) -> Any:
    """Images [B, H, W, C] -> a tensor [B, C, H, W]."""
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def check(kind: str, folder: pathlib.Path, weights: Weights, channels: int) -> dict[str, float]:
    """`compare`, with errors in one line.

    Raises:
      UserError: the library does not load the folder.
    """
    try:
        theirs = loaded(kind, folder, weights)
    except Exception as error:  # of another library
        cause = files.one_line(error)
        raise UserError(f"--verify: {kind} does not load the folder here: {cause}") from error
    return compare(theirs, weights, channels)
