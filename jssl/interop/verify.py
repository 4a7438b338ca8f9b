"""Compares an exported folder, loaded by the real library, with the encoder of jssl."""

import importlib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jssl.config import UserError
from jssl.data import files
from jssl.data.sources import digits
from jssl.interop import programs
from jssl.interop.target import family
from jssl.interop.weights import Weights
from jssl.nn.apply import apply

LIMIT = 1e-4  # of a difference in float32
NEEDS = {
    "timm": ("torch", "timm"),
    "hf": ("torch", "transformers"),
    "torchvision": ("torch", "torchvision"),
}


def missing(kind: str) -> list[str]:
    """The packages that are not installed, of those that load a format."""
    return [name for name in NEEDS.get(kind, ()) if importlib.util.find_spec(name) is None]


def compare(theirs: Any, weights: Weights, channels: int) -> dict[str, float]:
    """The largest absolute difference between the outputs of both, for each input.

    The outputs are all tokens after the last LayerNorm; of a ResNet, its pooled features.

    Args:
      theirs: f(examples) -> outputs, of `LOADERS`.
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
    images = digits.load("train")[0][:2]
    repeat = -(-size // images.shape[1])
    large = np.repeat(np.repeat(images, repeat, 1), repeat, 2)[:, :size, :size, :1]
    x = np.repeat(large, channels, 3).astype(np.float32)
    return (x - x.mean()) / x.std()


def encoder_of(weights: Weights, channels: int) -> Any:
    """f(examples) -> the outputs of jssl's encoder in float32."""
    module, params, stats = programs.encoder(weights, channels)

    @jax.jit
    def run(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return apply(module, params, stats, x, train=False)[0]

    return lambda x: np.asarray(run(params, stats, x))


def images_to(torch: Any, x: np.ndarray) -> Any:
    """Images [B, H, W, C] -> a tensor [B, C, H, W]."""
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_timm(folder: pathlib.Path, weights: Weights) -> Any:
    """f(images) -> the outputs of the folder in timm."""
    timm = importlib.import_module("timm")
    torch = importlib.import_module("torch")
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    is_resnet = family(weights.model) == "resnet"

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            pixels = images_to(torch, x)
            return (model(pixels) if is_resnet else model.forward_features(pixels)).numpy()

    return run


def from_torchvision(folder: pathlib.Path, weights: Weights) -> Any:
    """f(images) -> the outputs of the folder in torchvision."""
    torch = importlib.import_module("torch")
    torchvision = importlib.import_module("torchvision")
    load_file = importlib.import_module("safetensors.torch").load_file
    model: Any = getattr(torchvision.models, weights.model["name"])(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(images_to(torch, x)).numpy()

    return run


def from_transformers(folder: pathlib.Path, weights: Weights) -> Any:
    """f(images or tokens) -> the outputs of the folder in transformers."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    options: Mapping[str, Any] = {}
    if family(weights.model) == "bert":
        options = {"add_pooling_layer": False}
    model: Any = transformers.AutoModel.from_pretrained(folder, **options).eval()
    if getattr(model.config, "model_type", "") == "vit_mae":
        model.config.mask_ratio = 0.0

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            if x.ndim == 2:
                return model(torch.tensor(x).long()).last_hidden_state.numpy()
            if family(weights.model) == "resnet":
                return model(images_to(torch, x)).pooler_output[..., 0, 0].numpy()
            return model(images_to(torch, x)).last_hidden_state.numpy()

    return run


LOADERS = {"timm": from_timm, "hf": from_transformers, "torchvision": from_torchvision}


def check(kind: str, folder: pathlib.Path, weights: Weights, channels: int) -> dict[str, float]:
    """`compare`, with errors in one line.

    Raises:
      UserError: the library is not installed, or does not load the folder.
    """
    if absent := missing(kind):
        packages = " and ".join(absent)
        raise UserError(
            f"--verify needs {packages} here, to load the folder; install it, or leave out --verify"
        )
    try:
        theirs = LOADERS[kind](folder, weights)
    except Exception as error:  # of another library
        cause = files.one_line(error)
        raise UserError(f"--verify: {kind} does not load the folder here: {cause}") from error
    return compare(theirs, weights, channels)
