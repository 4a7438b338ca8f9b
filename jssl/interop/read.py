"""Reads the weights of an encoder from a file or a folder, whichever library wrote it.

Its content says what it is: a folder of transformers (config.json with "model_type"), of timm
(config.json with "architecture"), a workdir of jssl or one of its checkpoints, or a file of
safetensors by its names. Pickled files are refused, since reading one runs its code.
"""

import logging
import os
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jssl.config import UserError
from jssl.data import files
from jssl.interop import adapt, architecture, convert
from jssl.interop.run_weights import is_run, read_run
from jssl.interop.weights import Weights

log = logging.getLogger("jssl")
INDEX = "model.safetensors.index.json"
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
PATCHES = ("patch_embed", "patch_embeddings")
DTYPES = {"BF16": "bfloat16"}


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of one or several files of safetensors, each read when it is used.

    Attributes:
      shapes: {name: shape}.
    """

    def __init__(self, paths: list[pathlib.Path]) -> None:
        """Reads the headers.

        Raises:
          Damaged: a file is no whole file of safetensors.
        """
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file: dict[str, Any] = {}
        for path in paths:
            with files.foreign(path):
                try:
                    opened = safe_open(path, framework="flax")
                except SafetensorError as error:
                    why = f"{files.one_line(error)}; is it whole? copy it again"
                    raise files.Damaged(path, why) from None
                for name in opened.keys():
                    self.shapes[name] = tuple(opened.get_slice(name).get_shape())
                    self._file[name] = opened

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._file[name].get_tensor(name), np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read_weights(path: str | os.PathLike[str], part: str = "encoder") -> Weights:
    """Reads the weights at a path; see the module.

    Args:
      path: a file or a folder.
      part: of a workdir: "encoder", the trained one, or "teacher", its moving average.

    Raises:
      UserError: one line, if there is nothing that jssl can read.
    """
    place = pathlib.Path(path).expanduser()
    try:
        place = place.resolve(strict=True)
        return read_folder(place, part) if place.is_dir() else read_file(place, {})
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        why = files.one_line(error)
        raise refused(path, f"cannot be read: {why}", "check the path") from None
    except files.Damaged as error:
        raise refused(path, str(error), "restore it") from None


def refused(path: str | os.PathLike[str], problem: str, cure: str) -> UserError:
    """The error for a path from which nothing can be read."""
    return UserError(f"{os.fspath(path)}: {problem}; {cure}")


def read_folder(folder: pathlib.Path, part: str) -> Weights:
    """Reads a folder of transformers or timm, a workdir, or one with one file of safetensors.

    A folder `<workdir>/checkpoints/<step>` is that checkpoint of the workdir.
    """
    config_file = folder / "config.json"
    if folder.name.isdigit() and folder.parent.name == "checkpoints":
        return read_run(folder.parents[1], part, folder.name)
    config = files.read_json(config_file, follow=True) if config_file.exists() else {}
    if not isinstance(config, dict):
        raise refused(folder, "its config.json is no object", "restore it")
    if is_run(config):
        return read_run(folder, part)
    paths = weight_files(folder)
    tensors = Tensors(paths)
    if config.get("jssl") == "encoder":
        return read_own(folder, tensors, config)
    if "model_type" not in config and "architecture" not in config:
        if len(paths) > 1 or config_file.exists():
            names = '"model_type" (transformers) nor "architecture" (timm)'
            raise refused(folder, f"its config.json has neither {names}", "restore it")
        return read_file(paths[0], {})
    return convert_tensors(folder, tensors, config)


def read_own(folder: pathlib.Path, tensors: Tensors, config: Mapping[str, Any]) -> Weights:
    """Reads a folder of ``jssl export --format=safetensors``."""
    pixels = {key: tuple(config[key]) for key in ("mean", "std") if key in config}
    model = config.get("model")
    if not isinstance(model, dict) or "name" not in model:
        raise refused(folder, 'its config.json has no section "model"', "restore it")
    heads = {name: tensors[name] for name in tensors if name.startswith("head/")}
    encoder = {name: tensors[name] for name in tensors if name not in heads}
    classes = tuple(config.get("classes", ()))
    return Weights(str(folder), "jssl", encoder, heads, model, pixels, [], classes=classes)


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of safetensors of a folder: model.safetensors, or the parts that an index lists."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if (folder / INDEX).exists():
        index = files.read_json(folder / INDEX, follow=True)
        with files.foreign(folder / INDEX):
            names = sorted(set(index["weight_map"].values()))
        if not names or any(pathlib.PurePath(name).name != name for name in names):
            raise refused(folder, f"its {INDEX} lists no files of this folder", "restore it")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise refused(folder, f"holds {len(found)} files of safetensors", "name one of them")
    if pickled := [p for p in sorted(folder.iterdir()) if p.suffix in PICKLED]:
        raise refused_pickle(pickled[0])
    raise refused(folder, "holds no weights (model.safetensors)", "name another folder")


def read_file(path: pathlib.Path, config: Mapping[str, Any]) -> Weights:
    """Reads a file of safetensors; a config.json beside it counts."""
    if path.suffix in PICKLED:
        raise refused_pickle(path)
    if not path.is_file():
        raise refused(path, "no regular file", "name a file of safetensors or a folder")
    beside = path.parent / "config.json"
    if beside.exists():
        found = files.read_json(beside, follow=True)
        if isinstance(found, dict) and {"model_type", "architecture"} & set(found):
            config = found
    return convert_tensors(path, Tensors([path]), config)


def refused_pickle(path: pathlib.Path) -> UserError:
    """The error for a pickled file, with the command that converts it."""
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
        "s = s.get('state_dict', s.get('model', s)); "
        "save_file({k: v.contiguous().clone() for k, v in s.items()}, sys.argv[2])"
    )
    new = path.with_suffix(".safetensors").name
    command = f"python -c {shlex.quote(code)} {shlex.quote(path.name)} {shlex.quote(new)}"
    return refused(path, "pickled, and reading it would run its code", f"convert it: {command}")


def convert_tensors(path: pathlib.Path, tensors: Tensors, config: Mapping[str, Any]) -> Weights:
    """Converts the tensors of another library; `config` is its config.json, {} without."""
    try:
        if "model_type" in config:
            layout, facts = architecture.of_transformers(config)
        elif "architecture" in config:
            layout, facts = architecture.of_timm(config, set(tensors))
        else:
            layout, facts = architecture.of_names(set(tensors)), {}
        layout = with_swiglu(layout, tensors.shapes)
        encoder = convert.from_state(layout, tensors)
        if "pos_embed" in encoder and encoder["pos_embed"].ndim == 3:
            encoder |= adapt.with_prefix(encoder)
        shapes = {name: array.shape for name, array in encoder.items()}
        with files.foreign(path):  # values of config.json that are of no use
            model = architecture.model_section(shapes, facts, patch_shape(tensors.shapes))
    except UserError as error:
        raise refused(path, str(error), "see docs/guides/weights.md") from None
    if not model.get("key_bias", True):
        encoder |= zero_biases(encoder)
    heads = {}
    if table := convert.layout(layout).heads:
        heads = convert.from_state(layout, tensors, table=table, strict=False)
    unused = sorted(set(tensors) - convert.used(layout, tensors))
    folder = path if path.is_dir() else path.parent
    pixels = stated_pixels(folder, config)
    return Weights(str(path), layout, encoder, heads, model, pixels, unused)


def zero_biases(encoder: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The biases of queries and values that are missing: timm leaves them out if they are 0."""
    zeros = {}
    for name, kernel in encoder.items():
        block, is_qkv, _ = name.partition("qkv/kernel")
        for bias in ("q_bias", "v_bias") if is_qkv else ():
            if block + bias not in encoder:
                zeros[block + bias] = np.zeros(kernel.shape[0], np.float32)
    return zeros


def with_swiglu(layout: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """timm's ViTs with SwiGLU have the names of the others, and a first layer twice as wide."""
    if layout != "timm_vit":
        return layout
    first = shapes.get("blocks.0.mlp.fc1.weight", (0, 0))
    second = shapes.get("blocks.0.mlp.fc2.weight", (0, 0))
    return "timm_vit_swiglu" if first[0] == 2 * second[1] > 0 else layout


def patch_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the patches' kernel, [D, C, p, p]; () if there is none."""
    for name, shape in shapes.items():
        if len(shape) == 4 and any(part in name for part in PATCHES):
            return shape
    return ()


def stated_pixels(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of each channel that a folder states for its weights."""
    stated = config.get("pretrained_cfg") or {}
    mean = stated.get("mean")
    std = stated.get("std")
    preprocessor = folder / "preprocessor_config.json"
    if mean is None and preprocessor.exists():
        values = files.read_json(preprocessor, follow=True)
        with files.foreign(preprocessor):
            mean = values.get("image_mean")
            std = values.get("image_std")
    if not mean or not std:
        return {}
    with files.foreign(folder):
        return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
