"""An exported folder as a model of PyTorch, which its real library loads."""

import importlib
import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jssl.interop.target import family
from jssl.interop.weights import Weights

NEEDS = {  # the packages that load each format
    "timm": ("torch", "timm"),
    "hf": ("torch", "transformers"),
    "torchvision": ("torch", "torchvision"),
}
POOLERS = ("vit", "ijepa", "beit", "bert")  # of transformers: they can leave out their last layer


class TorchModel(NamedTuple):
    """An encoder in PyTorch.

    Attributes:
      module: the torch.nn.Module, in evaluation mode.
      outputs: f(images float32 [B, C, H, W]) or f(ids int64 [B, L], mask) -> all tokens after the
        last LayerNorm, [B, T, D]; of a ResNet its pooled features, [B, D]. The mask, int64 [B, L],
        is 0 at padding; None: there is no padding.
    """

    module: Any
    outputs: Callable[..., Any]


def missing(packages: tuple[str, ...]) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def from_timm(folder: pathlib.Path, weights: Weights) -> TorchModel:
    """Loads a folder of timm."""
    timm = importlib.import_module("timm")
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    is_resnet = family(weights.model) == "resnet"
    return TorchModel(model, model if is_resnet else model.forward_features)


def from_torchvision(folder: pathlib.Path, weights: Weights) -> TorchModel:
    """Loads a folder with torchvision's names."""
    torch = importlib.import_module("torch")
    torchvision = importlib.import_module("torchvision")
    load_file = importlib.import_module("safetensors.torch").load_file
    model: Any = getattr(torchvision.models, weights.model["name"])(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return TorchModel(model.eval(), model)


def from_transformers(folder: pathlib.Path, weights: Weights) -> TorchModel:
    """Loads a folder of transformers."""
    transformers = importlib.import_module("transformers")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    options = {"add_pooling_layer": False} if kind in POOLERS else {}
    model: Any = transformers.AutoModel.from_pretrained(folder, **options).eval()
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0

    def outputs(x: Any, mask: Any = None) -> Any:
        if kind == "resnet":
            return model(x).pooler_output[..., 0, 0]
        found = model(x) if mask is None else model(x, attention_mask=mask)
        return found.last_hidden_state

    return TorchModel(model, outputs)


LOADERS = {"timm": from_timm, "hf": from_transformers, "torchvision": from_torchvision}


def load(kind: str, folder: pathlib.Path, weights: Weights) -> TorchModel:
    """Loads a folder of the format `kind`, in which `weights` were exported."""
    return LOADERS[kind](folder, weights)
