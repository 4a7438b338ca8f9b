"""An encoder of jssl for timm 1.0 and torchvision.

Every value on which a default of timm could differ is written: sizes, pixel statistics, pooling.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.config import UserError
from jssl.interop.target import Target, family, last_layer, with_defaults, with_positions
from jssl.interop.weights import Weights
from jssl.nn import vit

Array = np.ndarray
TIMM_SIZES = {
    "vit_ti": "tiny",
    "vit_s": "small",
    "vit_b": "base",
    "vit_l": "large",
    "vit_h": "huge",
}


def timm(weights: Weights, pixels: Mapping[str, Any], channels: int) -> Target:
    """The encoder as a feature extractor of timm.

    Args:
      weights: the encoder.
      pixels: "size", "mean", "std" and "crop" of the evaluation view.
      channels: of the images.

    Raises:
      UserError: timm has no such encoder.
    """
    kind = family(weights.model)
    size = pixels["size"]
    cfg = {
        "input_size": [channels, size, size],
        "fixed_input_size": kind == "vit" and weights.model["positions"] != "rotary",
        "mean": list(pixels["mean"]),
        "std": list(pixels["std"]),
        "interpolation": "bilinear",
        "crop_pct": pixels["crop"],
        "crop_mode": "center",
        "custom_load": False,
    }
    if kind == "resnet":
        return as_classifier(timm_resnet(weights, cfg, channels), weights, "fc")
    return as_classifier(timm_vit(weights, cfg, channels), weights, "head")


def as_classifier(target: Target, weights: Weights, name: str) -> Target:
    """Adds the last layer of a fine-tuned classifier, if there is one, under a name of timm."""
    if not weights.classes:
        return target
    cfg = target.config["pretrained_cfg"] | {"label_names": list(weights.classes)}
    changes = {"num_classes": len(weights.classes), "pretrained_cfg": cfg}
    return target._replace(config=target.config | changes, heads=last_layer(weights, name))


def timm_resnet(weights: Weights, cfg: dict[str, Any], channels: int) -> Target:
    """See `timm`."""
    model = weights.model
    check_published(model, "timm")
    features = weights.encoder["layer4_0/bn2/scale"].shape[0]
    if "layer4_0/bn3/scale" in weights.encoder:
        features = weights.encoder["layer4_0/bn3/scale"].shape[0]
    config = {
        "architecture": model["name"],
        "num_classes": 0,
        "num_features": features,
        "global_pool": "avg",
        "model_args": {"in_chans": channels},
        "pretrained_cfg": cfg | {"first_conv": "conv1", "classifier": "fc", "pool_size": [7, 7]},
    }
    return Target("resnet", config, dict(weights.encoder))


def check_published(model: Mapping[str, Any], library: str) -> None:
    """Raises `UserError` for a ResNet that a library does not have."""
    for key, published in (("width", 64), ("stem", "imagenet")):
        if model[key] != published:
            raise UserError(
                f"{library} has no ResNet with --config.model.{key}={model[key]}; "
                "use --format=safetensors"
            )
    if model["name"] in ("resnet8", "resnet10", "resnet_test"):
        raise UserError(f"{library} has no {model['name']}; use --format=safetensors")


def timm_vit(weights: Weights, cfg: dict[str, Any], channels: int) -> Target:
    """See `timm`."""
    model = with_defaults(weights.model)
    dim, depth, heads = vit.SIZES[model["name"]]
    hidden = model["mlp_width"] or 4 * dim
    gated = model["feed_forward"] == "swiglu"
    arguments: dict[str, Any] = {
        "img_size": model["image_size"],
        "patch_size": model["patch"],
        "in_chans": channels,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "class_token": model["class_token"],
    }
    encoder = with_positions(weights)
    if model["positions"] == "rotary":
        return timm_eva(model, arguments, cfg, encoder, hidden)
    if not model["key_bias"]:
        raise UserError("timm has no ViT with these positions and no key bias; use --format=hf")
    if model["norm_eps"] != 1e-6:
        raise UserError(
            f"timm's ViT has the epsilon 1e-6, and not {model['norm_eps']:g}; use --format=hf"
        )
    arguments["mlp_ratio"] = (2 if gated else 1) * hidden / dim  # SwiGLU: both of its kernels
    arguments["init_values"] = model["layer_scale"] or None
    if model["registers"]:  # the position of the class token goes into the token
        arguments |= {"reg_tokens": model["registers"], "no_embed_class": True}
        encoder["cls_token"] = encoder["cls_token"] + encoder["pos_embed"][:, :1]
        encoder["pos_embed"] = encoder["pos_embed"][:, 1:]
    pool = "token" if model["pool"] == "cls" else "avg"
    arguments |= {"global_pool": pool, "fc_norm": False}
    size = TIMM_SIZES.get(model["name"], "base")  # `arguments` has all sizes
    config = {
        "architecture": "vit_giant_patch14_dinov2" if gated else f"vit_{size}_patch16_224",
        "num_classes": 0,
        "num_features": dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": cfg | {"first_conv": "patch_embed.proj", "classifier": "head"},
    }
    return Target("timm_vit_swiglu" if gated else "timm_vit", config, encoder)


def timm_eva(
    model: Mapping[str, Any],
    arguments: dict[str, Any],
    cfg: dict[str, Any],
    encoder: dict[str, Array],
    hidden: int,
) -> Target:
    """See `timm`: its DINOv3, in eva.py."""
    if model["key_bias"]:
        raise UserError("timm's ViT with rotary positions has no key bias; use --format=hf")
    if model["norm_eps"] != 1e-5:
        raise UserError(
            f"timm's DINOv3 has the epsilon 1e-5, and not {model['norm_eps']:g}; use --format=hf"
        )
    gated = model["feed_forward"] == "swiglu"
    name = "vit_small_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb"
    dim = arguments["embed_dim"]
    pool = "token" if model["pool"] == "cls" else "avg"
    arguments |= {
        "mlp_ratio": hidden / dim,
        "num_reg_tokens": model["registers"],
        "init_values": model["layer_scale"] or None,
        "global_pool": pool,
    }
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": cfg | {"first_conv": "patch_embed.proj", "classifier": "head"},
    }
    return Target("timm_eva_swiglu" if gated else "timm_eva", config, encoder)


def torchvision(weights: Weights) -> Target:
    """The encoder as a ResNet of torchvision, without `fc`."""
    if family(weights.model) != "resnet":
        raise UserError("only a ResNet has torchvision's names here; use --format=timm or hf")
    check_published(weights.model, "torchvision")
    return Target("resnet", {}, dict(weights.encoder))
