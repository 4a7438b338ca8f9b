"""Writes an encoder as a folder that timm, transformers or torchvision loads without a network."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jssl.config import ConfigError, UserError
from jssl.data.files import one_line
from jssl.interop import convert
from jssl.interop.target import Target, family
from jssl.interop.to_timm import timm, torchvision
from jssl.interop.to_transformers import transformers
from jssl.interop.weights import Weights

FORMATS = ("timm", "hf", "torchvision", "safetensors", "stablehlo", "onnx")
CLASSIFIERS = ("safetensors", "timm", "hf")  # the formats that have the last layer of a classifier
BILINEAR = 2  # Pillow's and transformers' number


def target_of(
    weights: Weights, run: Mapping[str, Any], kind: str, channels: int, heads: bool = False
) -> Target:
    """The encoder in the form of a format.

    Args:
      weights: the encoder.
      run: the config of the run.
      kind: "timm", "hf" or "torchvision".
      channels: of the images.
      heads: with the head of the pretraining, for "hf".

    Raises:
      UserError: the library has no such encoder.
    """
    if kind == "timm" and is_text(weights):
        raise UserError("timm has no text encoders; use --format=hf")
    if kind == "timm":
        return timm(weights, pixels_of(weights, run), channels)
    if kind == "torchvision":
        return torchvision(weights)
    return transformers(weights, run, channels, heads)


def pixels_of(weights: Weights, run: Mapping[str, Any]) -> dict[str, Any]:
    """What an image goes through before the encoder: size, mean, std and crop fraction."""
    section = run["eval"]
    augment = run["augment"]
    return {
        "size": section["size"] or augment["size"],
        "crop": section["crop_fraction"],
        "mean": weights.pixels["mean"],
        "std": weights.pixels["std"],
    }


def tensors_of(target: Target, channels: int) -> dict[str, np.ndarray]:
    """The tensors of a target by their names in the other library."""
    state = convert.to_state(target.layout, target.encoder, channels)
    state = {f"{target.prefix}{name}": array for name, array in state.items()}
    for name in [name for name in state if name.endswith("running_mean")]:
        count = name.replace("running_mean", "num_batches_tracked")
        state[count] = np.zeros((), np.int64)
    return state | dict(target.heads)


def preprocessor(pixels: Mapping[str, Any]) -> dict[str, Any]:
    """The content of preprocessor_config.json: jssl's evaluation view."""
    size = pixels["size"]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size / pixels["crop"])},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
    }


def write(
    folder: pathlib.Path,
    target: Target,
    channels: int,
    metadata: Mapping[str, str],
    pixels: Mapping[str, Any] | None,
) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json into a folder.

    Args:
      folder: an empty folder.
      target: what is written.
      channels: of the images.
      metadata: of the file of safetensors, such as the commit.
      pixels: see `pixels_of`; None for text.
    """
    state = tensors_of(target, channels)
    save_file(state, folder / "model.safetensors", {"format": "pt"} | dict(metadata))
    if target.config:
        write_json(folder / "config.json", target.config | {"torch_dtype": "float32"})
    if pixels and target.config.get("model_type"):
        write_json(folder / "preprocessor_config.json", preprocessor(pixels))


def write_own(folder: pathlib.Path, weights: Weights, metadata: Mapping[str, str]) -> None:
    """Writes an encoder under jssl's own names; config.json has the section `model`."""
    head = weights.heads if weights.classes else {}
    tensors = weights.encoder | head
    state = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(state, folder / "model.safetensors", {"format": "jssl"} | dict(metadata))
    content = {"jssl": "encoder", "model": weights.model} | weights.pixels
    content |= {"classes": weights.classes} if weights.classes else {}
    write_json(folder / "config.json", content)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON; tuples become lists."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_new(out: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the absolute path; raises `UserError` if it exists and is not an empty folder."""
    path = pathlib.Path(out).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError("out", out, "exists already", "name a new folder, or move it away")
    return path


@contextlib.contextmanager
def new_folder(out: str | os.PathLike[str], replace: bool = False) -> Iterator[pathlib.Path]:
    """A folder that gets the name `out` when the block ends without an error.

    Args:
      out: the name.
      replace: whether a folder of that name is replaced then.

    Raises:
      UserError: `out` exists and is not empty, or cannot be written.
    """
    path = pathlib.Path(out) if replace else check_new(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        problem = f"cannot be written ({one_line(error)})"
        raise ConfigError("out", str(out), problem, "choose another") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp and safetensors make files for the owner alone
        for file in temporary.iterdir():
            file.chmod(0o644)
        if replace and path.exists():
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except Exception as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left" in str(error):
            raise ConfigError("out", out, "the disk is full", "free some space") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_text(weights: Weights) -> bool:
    """Whether the encoder reads text."""
    return family(weights.model) in ("bert", "gpt")
