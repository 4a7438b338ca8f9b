"""Encoders at their real sizes, in jssl and in the real libraries: the largest difference.

    make parity                                          # transformers 5 and 4, and docs/parity.md
    python benchmarks/parity.py --out=benchmarks/results/parity-5.json [--only=dinov3]

Each family has random weights of its library. "In": the library writes a folder, jssl reads it, and
the outputs on the same images or tokens are compared. "Out": jssl writes its encoder as a folder,
the library loads it, and the outputs are compared again. The outputs are all tokens after the last
LayerNorm, or the pooled features of a ResNet, in float32. Needs torch, timm, transformers and
torchvision beside jssl.
"""

import argparse
import importlib.metadata
import json
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import peer_steps  # noqa: F401  (torchvision's operators may be missing; it comes first)
import timm
import torch
import torchvision
import transformers as hf
from safetensors.torch import save_file
from step import commit

from jssl.interop import export, verify
from jssl.interop.read import read_weights

LARGEST = 1e-4
B = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
S = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
WIDE = dict(intermediate_size=3072)
BEIT = B | WIDE | dict(use_absolute_position_embeddings=True, use_mean_pooling=False)
D2 = dict(patch_size=14, image_size=518, layerscale_value=1e-1)
RUN = {  # what an export reads of a run's config
    "method": "none",
    "eval": {"size": 0, "crop_fraction": 0.875},
    "augment": {"size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}


def transformers_models() -> dict[str, Callable[[], Any]]:
    """{family: a function that makes its random model} of transformers."""
    return {
        "ViT-B/16": lambda: hf.ViTModel(hf.ViTConfig(**B, **WIDE)),
        "MAE ViT-B/16": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**B, **WIDE, mask_ratio=0.0)),
        "I-JEPA ViT-H/14": lambda: hf.IJepaModel(
            hf.IJepaConfig(
                hidden_size=1280, num_hidden_layers=32, num_attention_heads=16,
                intermediate_size=5120, patch_size=14,
            )
        ),
        "BEiT-B/16, absolute positions": lambda: hf.BeitModel(hf.BeitConfig(**BEIT)),
        "data2vec ViT-B/16, absolute positions": lambda: hf.Data2VecVisionModel(
            hf.Data2VecVisionConfig(**BEIT)
        ),
        "DINOv2 ViT-S/14": lambda: hf.Dinov2Model(hf.Dinov2Config(**S, **D2)),
        "DINOv2 ViT-B/14, SwiGLU": lambda: hf.Dinov2Model(
            hf.Dinov2Config(**B, **D2, use_swiglu_ffn=True)
        ),
        "DINOv2 ViT-B/14, 4 registers": lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**B, **D2, num_register_tokens=4)
        ),
        "DINOv3 ViT-S/16": lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**S, num_register_tokens=4, layerscale_value=0.1)
        ),
        "DINOv3 ViT-S+/16": lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(
                **S, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu",
                layerscale_value=0.1,
            )
        ),
        "ResNet-18": lambda: hf.ResNetModel(
            hf.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic")
        ),
        "ResNet-50": lambda: hf.ResNetModel(hf.ResNetConfig()),
        "BERT-base": lambda: hf.BertModel(hf.BertConfig(), add_pooling_layer=False),
        "RoBERTa-base": lambda: hf.RobertaModel(
            hf.RobertaConfig(
                vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
                layer_norm_eps=1e-5,
            ),
            add_pooling_layer=False,
        ),
        "GPT-2": lambda: hf.GPT2Model(hf.GPT2Config()),
    }  # fmt: skip


TIMM = {
    "ViT-S/16": "vit_small_patch16_224",
    "DINOv2 ViT-S/14": "vit_small_patch14_dinov2",
    "DINOv2 ViT-S/14, 4 registers": "vit_small_patch14_reg4_dinov2",
    "DINOv3 ViT-S/16": "vit_small_patch16_dinov3_qkvb",
    "DINOv3 ViT-S+/16": "vit_small_plus_patch16_dinov3_qkvb",
    "ResNet-50": "resnet50",
}


def cases() -> list[tuple[str, str, Callable[[pathlib.Path], Any]]]:
    """(library, family, a function that writes a folder and returns the model) of each case."""
    found: list[tuple[str, str, Callable[[pathlib.Path], Any]]] = []
    for name, make in transformers_models().items():
        found.append(("transformers", name, lambda folder, make=make: from_hf(make, folder)))
    for name, model in TIMM.items():
        found.append(("timm", name, lambda folder, model=model: from_timm(model, folder)))
    found.append(("torchvision", "ResNet-50", from_torchvision))
    return found


def drawn(model: Any) -> Any:
    """The model with random running statistics and biases, so that none is 0 or 1.

    The scales of BatchNorm are drawn below 1, so that features are as large as trained ones: with 1
    a random ResNet-50 doubles them in every block.
    """
    generator = torch.Generator().manual_seed(0)
    for name, value in [*model.named_buffers(), *model.named_parameters()]:
        if "running" in name or name.endswith("bias"):
            noise = torch.rand(value.shape, generator=generator)
            value.data = noise * 0.2 + (0.9 if "var" in name else -0.1)
        if name.endswith("k_bias"):
            value.data = torch.zeros_like(value)
        if re.search(r"(bn\d|downsample\.1|normalization)\.weight$", name):
            value.data = torch.rand(value.shape, generator=generator) * 0.4 + 0.2
    return model.eval()


def from_hf(make: Callable[[], Any], folder: pathlib.Path) -> Any:
    """Writes a model of transformers as a folder."""
    torch.manual_seed(0)
    model = drawn(make())
    model.save_pretrained(folder)
    return model


def from_timm(name: str, folder: pathlib.Path) -> Any:
    """Writes a model of timm as a folder, as `timm.models.save_for_hf` does."""
    torch.manual_seed(0)
    model = drawn(timm.create_model(name, num_classes=0))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def from_torchvision(folder: pathlib.Path) -> Any:
    """Writes the state of a model of torchvision."""
    torch.manual_seed(0)
    model = drawn(torchvision.models.resnet50(weights=None))
    save_file(model.state_dict(), folder / "model.safetensors")
    model.fc = torch.nn.Identity()
    return model


def outputs(library: str, model: Any, x: np.ndarray) -> np.ndarray:
    """The outputs of a model of a library."""
    with torch.no_grad():
        if x.ndim == 2:
            return model(torch.tensor(x).long()).last_hidden_state.numpy()
        pixels = verify.images_to(torch, x)
        if library == "torchvision":
            return model(pixels).numpy()
        if library == "timm":
            is_vit = hasattr(model, "blocks")
            return (model.forward_features(pixels) if is_vit else model(pixels)).numpy()
        if isinstance(model, hf.ViTMAEModel):
            found = model(pixels, noise=torch.arange(196.0)[None].repeat(len(x), 1))
            return found.last_hidden_state.numpy()
        found = model(pixels)
        if isinstance(model, hf.ResNetModel):
            return found.pooler_output[..., 0, 0].numpy()
        return found.last_hidden_state.numpy()


def compared(library: str, write: Callable[[pathlib.Path], Any]) -> dict[str, Any]:
    """{"in": largest difference, "out": {format: largest difference or why not}}."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "in"
        folder.mkdir()
        model = write(folder)
        weights = read_weights(folder)
        if not weights.pixels:
            weights = weights._replace(pixels=RUN["augment"])
        channels = 0 if "length" in weights.model else 3
        ours = verify.encoder_of(weights, channels)
        inputs = verify.inputs(weights, channels)
        differences = [np.abs(ours(x) - outputs(library, model, x)).max() for x in inputs.values()]
        largest = max(float(np.abs(ours(x)).max()) for x in inputs.values())
        result: dict[str, Any] = {"in": float(max(differences)), "largest": largest, "out": {}}
        del model
        for kind in ("timm", "hf", "torchvision"):
            out = pathlib.Path(place) / kind
            out.mkdir()
            try:
                target = export.target_of(weights, RUN, kind, channels, heads=False)
            except export.UserError as error:
                result["out"][kind] = str(error)
                continue
            pixels = export.pixels_of(weights, RUN) if channels else None
            export.write(out, target, channels, {}, pixels)
            theirs = verify.loaded(kind, out, weights)
            found = verify.compare(theirs, weights, channels)
            result["out"][kind] = max(found.values())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="")
    parser.add_argument("--only", default="", help="a part of a family's name")
    args = parser.parse_args()
    torch.set_num_threads(2)
    names = ("torch", "timm", "transformers", "torchvision", "jax", "flax")
    versions = {name: importlib.metadata.version(name) for name in names}
    content: dict[str, Any] = {"commit": commit(), "versions": versions, "limit": LARGEST}
    content["families"] = []
    worst = 0.0
    for library, family, write in cases():
        if args.only.lower() not in family.lower():
            continue
        found = compared(library, write)
        content["families"].append({"library": library, "family": family} | found)
        print(library, family, found, flush=True)
        numbers = [found["in"], *(x for x in found["out"].values() if isinstance(x, float))]
        worst = max(worst, *numbers)
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(content, indent=1) + "\n")
    print(f"largest difference: {worst:.2g}")
    raise SystemExit(worst > LARGEST)


if __name__ == "__main__":
    main()
