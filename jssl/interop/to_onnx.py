"""An encoder as an ONNX program, with the inputs and the features of `jssl.interop.programs`.

The encoder goes through its library in PyTorch: jssl writes a folder, the library loads it, and
torch.onnx.export translates it. Of the two exporters this is the one on torch.export
(`dynamo=True`), which needs onnxscript, and with it onnx. The older one (`dynamo=False`) needs onnx
too, is deprecated, and fails for GPT-2 of transformers 4 and for registers in transformers.
"""

import importlib
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jssl.config import UserError
from jssl.data.files import one_line
from jssl.interop import export, torch_models
from jssl.interop.target import Target, family, with_defaults
from jssl.interop.torch_models import TorchModel
from jssl.interop.weights import Weights

EXPORTER = "onnxscript"  # the package that torch.onnx.export needs
LARGEST = 2**31 - 2**20  # bytes of a protobuf message, with room for the graph
OTHER = "use --format=stablehlo"


def write(
    folder: pathlib.Path,
    weights: Weights,
    run: Mapping[str, Any],
    channels: int,
    metadata: Mapping[str, str],
) -> None:
    """Writes encoder.onnx, and beside it encoder.onnx.data if the weights have 2 GB or more.

    Args:
      folder: an empty folder.
      weights: the encoder.
      run: the config of the run.
      channels: of the images; 0 for text.
      metadata: such as the commit; ONNX Runtime shows it as `custom_metadata_map`.

    Raises:
      UserError: no library has this encoder, packages are missing, or PyTorch cannot export it.
    """
    weights = weights._replace(classes=())
    inputs = examples(weights, run, channels)
    kind, target = library(weights, run, channels)
    pixels = export.pixels_of(weights, run) if channels else None
    with tempfile.TemporaryDirectory() as place:
        export.write(pathlib.Path(place), target, channels, metadata, pixels)
        try:
            model = torch_models.load(kind, pathlib.Path(place), weights)
            program = exported(model, weights, inputs)
        except Exception as error:  # of another library
            cause = one_line(error)
            raise UserError(f"--format=onnx: {kind} or PyTorch fails: {cause}; {OTHER}") from error
    strip(program)
    program.model.metadata_props.update(metadata)
    size = sum(array.nbytes for array in weights.encoder.values())
    program.save(folder / "encoder.onnx", external_data=size >= LARGEST)


def library(weights: Weights, run: Mapping[str, Any], channels: int) -> tuple[str, Target]:
    """The format through which an encoder goes, and its target.

    Of the libraries that have the encoder it is the first one that is installed.

    Raises:
      UserError: no library has this encoder, or packages are missing.
    """
    targets: dict[str, Target] = {}
    for kind in torch_models.NEEDS:
        try:
            targets[kind] = export.target_of(weights, run, kind, channels)
        except UserError:
            continue
    if not targets:
        raise UserError(
            f"--format=onnx: timm, transformers and torchvision have no such encoder; {OTHER}"
        )
    needs = {kind: (*torch_models.NEEDS[kind], EXPORTER) for kind in targets}
    for kind, target in targets.items():
        if not torch_models.missing(needs[kind]):
            return kind, target
    packages = next(iter(needs.values()))
    absent = " and ".join(torch_models.missing(packages))
    raise UserError(
        f"--format=onnx needs {absent} here; pip install {' '.join(packages)} (an environment of "
        f"its own with jssl is enough), or {OTHER}"
    )


def examples(
    weights: Weights, run: Mapping[str, Any], channels: int, count: int = 2
) -> dict[str, np.ndarray]:
    """Random inputs of the program, {name: array}.

    Args:
      weights: the encoder.
      run: the config of the run.
      channels: of the images; 0 for text.
      count: number of examples.

    Returns:
      "pixels" uint8 [count, size, size, C], or "ids" and "segments" int32 [count, L], where each
      row but the first has padding at its end.

    Raises:
      UserError: the images of the evaluation have another size than those of a ViT.
    """
    rng = np.random.default_rng(0)
    model = weights.model
    if not channels:
        vocab = weights.encoder["tokens/embedding"].shape[0]
        shape = (count, model["length"])
        lengths = shape[1] // np.arange(1, count + 1)
        segments = np.arange(shape[1]) < lengths[:, None]
        return {
            "ids": rng.integers(0, vocab, shape, np.int32),
            "segments": segments.astype(np.int32),
        }
    size = export.pixels_of(weights, run)["size"]
    if family(model) == "vit" and with_defaults(model)["positions"] != "rotary":
        if size != model["image_size"]:
            raise UserError(
                f"--format=onnx: the images of the evaluation have {size} pixels a side, and the "
                f"positions of this ViT are for {model['image_size']}; {OTHER}"
            )
    return {"pixels": rng.integers(0, 256, (count, size, size, channels), np.uint8)}


def exported(model: TorchModel, weights: Weights, inputs: Mapping[str, np.ndarray]) -> Any:
    """The torch.onnx.ONNXProgram of an encoder; the number of examples is a symbol."""
    torch: Any = importlib.import_module("torch")
    is_text = "ids" in inputs
    function = (text_features if is_text else image_features)(torch, model, weights)

    class Features(torch.nn.Module):
        """The encoder between its inputs and its features."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.module  # its parameters get names in the program

        def forward(self, *arrays: Any) -> Any:
            return function(*arrays)

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # warns of what it does not optimize
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            Features().eval(),
            tuple(torch.tensor(array) for array in inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["features"],
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            verbose=False,
        )


def image_features(torch: Any, model: TorchModel, weights: Weights) -> Callable[[Any], Any]:
    """f(pixels uint8 [B, size, size, C]) -> features float32 [B, D], in PyTorch."""
    mean = torch.tensor(weights.pixels["mean"], dtype=torch.float32)
    std = torch.tensor(weights.pixels["std"], dtype=torch.float32)
    is_vit = family(weights.model) == "vit"
    section = with_defaults(weights.model) if is_vit else {}

    def features(pixels: Any) -> Any:
        x = (pixels.float() / 255 - mean) / std
        output = model.outputs(x.permute(0, 3, 1, 2))
        if not is_vit:
            return output
        if section["pool"] == "cls":
            return output[:, 0]
        return output[:, section["class_token"] + section["registers"] :].mean(1)

    return features


def text_features(torch: Any, model: TorchModel, weights: Weights) -> Callable[[Any, Any], Any]:
    """f(ids, segments int32 [B, L]) -> features float32 [B, D], in PyTorch.

    A GPT sees no token after its own, so that padding at the end needs no mask.
    """
    pool = weights.model["pool"]
    is_causal = family(weights.model) == "gpt"

    def features(ids: Any, segments: Any) -> Any:
        is_token = segments > 0
        hidden = model.outputs(ids.long(), None if is_causal else is_token.long())
        if pool == "first":
            return hidden[:, 0]
        if pool == "last":
            index = torch.arange(ids.shape[1])
            is_token = index == (is_token * index).amax(1, keepdim=True)
        weight = is_token.float()[..., None]
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    return features


def strip(program: Any) -> None:
    """Removes the source lines, with paths of this machine, that the exporter writes to nodes."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
