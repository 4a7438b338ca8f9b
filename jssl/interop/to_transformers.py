"""An encoder of jssl for transformers 4 and 5.

Every value on which a default of transformers could differ is written: sizes, epsilons, and so on.
The names of the tensors are those of version 4, which version 5 reads too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.config import UserError
from jssl.interop import convert
from jssl.interop.target import Target, family, with_defaults, with_positions
from jssl.interop.transformers_heads import as_classifier, with_pretraining_head
from jssl.interop.weights import Weights
from jssl.nn import resnet, text, vit

Array = np.ndarray


def transformers(weights: Weights, run: Mapping[str, Any], channels: int, heads: bool) -> Target:
    """The encoder, with the head of its pretraining if `heads`.

    Args:
      weights: the encoder.
      run: the config of the run.
      channels: of the images.
      heads: MAE's decoder, or the layers that predict tokens.

    Raises:
      UserError: transformers has no such encoder or head.
    """
    kind = family(weights.model)
    if kind == "resnet":
        target = resnet_target(weights, channels)
    elif kind == "vit":
        target = vit_target(weights, channels)
    else:
        target = text_target(weights, kind)
    if weights.classes:
        return as_classifier(target, weights)
    return with_pretraining_head(target, weights, run) if heads else target


def vit_target(weights: Weights, channels: int) -> Target:
    """The class of transformers that has the options of this ViT."""
    model = with_defaults(weights.model)
    dim, depth, heads = vit.SIZES[model["name"]]
    hidden = model["mlp_width"] or 4 * dim
    gated = model["feed_forward"] == "swiglu"
    shared = {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model["norm_eps"],
        "image_size": model["image_size"],
        "patch_size": model["patch"],
        "num_channels": channels,
    }
    encoder = with_positions(weights)
    plain = not model["layer_scale"] and not model["registers"] and not gated
    if model["positions"] == "rotary":
        return with_mask_token(dinov3(model, shared, encoder, hidden), weights, dim)
    if plain and model["key_bias"]:
        return plain_vit(model, shared, encoder, hidden)
    if not model["class_token"]:
        raise UserError("transformers has no ViT with these options and no class token")
    if not model["key_bias"]:
        return beit(model, shared, encoder, hidden)
    return with_mask_token(dinov2(model, shared, encoder, hidden), weights, dim)


def with_mask_token(target: Target, weights: Weights, dim: int) -> Target:
    """Adds the mask token that these classes always have: zero, if the encoder has none."""
    token = weights.heads.get("mask_token", np.zeros(dim, np.float32)).reshape(-1)
    layout = convert.layout(target.layout)
    heads = convert.to_state(target.layout, {"mask_token": token}, table=layout.heads)
    return target._replace(heads=heads)


def plain_vit(
    model: Mapping[str, Any], shared: dict[str, Any], encoder: dict[str, Array], hidden: int
) -> Target:
    """ViT; without class token I-JEPA's."""
    kind = "vit" if model["class_token"] else "ijepa"
    name = {"vit": "ViTModel", "ijepa": "IJepaModel"}[kind]
    config = {"model_type": kind, "architectures": [name], "qkv_bias": True}
    return Target(f"hf_{kind}", config | shared | {"intermediate_size": hidden}, encoder)


def beit(
    model: Mapping[str, Any], shared: dict[str, Any], encoder: dict[str, Array], hidden: int
) -> Target:
    """BEiT, which has no bias of keys."""
    if model["registers"] or model["feed_forward"] == "swiglu":
        raise UserError("transformers has no BEiT with registers or SwiGLU")
    options = {
        "model_type": "beit",
        "architectures": ["BeitModel"],
        "intermediate_size": hidden,
        "use_absolute_position_embeddings": True,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": False,
        "use_mask_token": False,
        "layer_scale_init_value": model["layer_scale"],
        "drop_path_rate": 0.0,
    }
    return Target("hf_beit", options | shared, encoder)


def dinov2(
    model: Mapping[str, Any], shared: dict[str, Any], encoder: dict[str, Array], hidden: int
) -> Target:
    """DINOv2, with or without registers. It always has layer scale: 1 where ours has none."""
    dim = shared["hidden_size"]
    gated = model["feed_forward"] == "swiglu"

    def width(ratio: int) -> int:
        full = dim * ratio
        return (int(full * 2 / 3) + 7) // 8 * 8 if gated else full

    # transformers 5 takes whole numbers only.
    ratios = [ratio for ratio in range(1, 2 * hidden // dim + 2) if width(ratio) == hidden]
    if not ratios:
        raise UserError(
            f"DINOv2 of transformers has no feed-forward layer of width {hidden} beside {dim} "
            "features; use --format=timm or --format=safetensors"
        )
    options = {
        "mlp_ratio": ratios[0],
        "qkv_bias": True,
        "use_swiglu_ffn": gated,
        "layerscale_value": model["layer_scale"] or 1.0,
        "drop_path_rate": 0.0,
    }
    kind = "dinov2_with_registers" if model["registers"] else "dinov2"
    if model["registers"]:
        options["num_register_tokens"] = model["registers"]
    name = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}[kind]
    options |= {"model_type": kind, "architectures": [name]}
    layout = f"hf_{kind}" + ("_swiglu" if gated else "")
    return Target(layout, options | shared, with_layer_scale(encoder, dim))


def dinov3(
    model: Mapping[str, Any], shared: dict[str, Any], encoder: dict[str, Array], hidden: int
) -> Target:
    """DINOv3's ViT. It always has layer scale: 1 where ours has none."""
    if not model["class_token"]:
        raise UserError("transformers has no ViT with rotary positions and no class token")
    gated = model["feed_forward"] == "swiglu"
    options = {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "intermediate_size": hidden,
        "use_gated_mlp": gated,
        "num_register_tokens": model["registers"],
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": model["key_bias"],
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": model["layer_scale"] or 1.0,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "pos_embed_rescale": model.get("rope_rescale", 1.0),
    }
    dim = shared["hidden_size"]
    if not model["registers"]:
        encoder["reg_token"] = np.zeros((1, 0, dim), np.float32)
    config = options | shared | ({"hidden_act": "silu"} if gated else {})
    return Target("hf_dinov3_vit", config, with_layer_scale(encoder, dim))


def with_layer_scale(encoder: dict[str, Array], dim: int) -> dict[str, Array]:
    """Adds a layer scale of 1 to each block that has none."""
    blocks = {key.split("/")[1] for key in encoder if key.startswith("blocks/")}
    names = [f"blocks/{i}/{scale}" for i in blocks for scale in ("attn_scale", "mlp_scale")]
    return {name: np.ones(dim, np.float32) for name in names} | encoder


def resnet_target(weights: Weights, channels: int) -> Target:
    """A ResNet."""
    model = weights.model
    block, depths = resnet.SIZES[model["name"]]
    if model["stem"] == "cifar":
        raise UserError(
            "transformers has no ResNet with the stem 'cifar'; use --format=safetensors"
        )
    width = model["width"]
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "num_channels": channels,
        "embedding_size": width,
        "hidden_sizes": [width * 2**i * block.expansion for i in range(len(depths))],
        "depths": list(depths),
        "layer_type": "bottleneck" if block is resnet.Bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    return Target("hf_resnet", config, dict(weights.encoder))


def text_target(weights: Weights, kind: str) -> Target:
    """BERT or GPT-2."""
    model = weights.model
    if model["positions"] != "learned":
        raise UserError("transformers' BERT and GPT-2 have learned positions, and no rotary ones")
    _, dim, depth, heads = text.SIZES[model["name"]]
    vocab = weights.encoder["tokens/embedding"].shape[0]
    eps = model.get("norm_eps") or text.STYLES[kind].eps
    if kind == "bert":
        config = {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": vocab,
            "hidden_size": dim,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * dim,
            "hidden_act": "gelu",
            "max_position_embeddings": model["length"],
            "type_vocab_size": 2,
            "layer_norm_eps": eps,
            "position_embedding_type": "absolute",
        }
        return Target("hf_bert", config, dict(weights.encoder))
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2Model"],
        "vocab_size": vocab,
        "n_embd": dim,
        "n_layer": depth,
        "n_head": heads,
        "n_positions": model["length"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": eps,
        "tie_word_embeddings": True,
    }
    return Target("hf_gpt2", config, dict(weights.encoder))
