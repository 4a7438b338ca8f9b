"""Heads for transformers: of pretraining (MAE, BERT, GPT-2), and of fine-tuned classifiers."""

from collections.abc import Mapping
from typing import Any

from jssl.config import UserError
from jssl.interop import convert
from jssl.interop.target import Target, last_layer
from jssl.interop.weights import Weights
from jssl.nn.positions import sincos

CLASSIFIERS = {  # layout -> (class, prefix of the encoder, name of the last layer)
    "hf_vit": ("ViTForImageClassification", "vit.", "classifier"),
    "hf_resnet": ("ResNetForImageClassification", "resnet.", "classifier.1"),
}


def as_classifier(target: Target, weights: Weights) -> Target:
    """A fine-tuned classifier; its classes are `id2label`.

    Raises:
      UserError: transformers' classifier of this family is not linear on the same features.
    """
    from_class_token = weights.model.get("pool", "cls") == "cls"
    if target.layout not in CLASSIFIERS or not from_class_token:
        raise UserError(
            "transformers has no linear classifier on these features; use --format=timm or "
            "safetensors"
        )
    name, prefix, last = CLASSIFIERS[target.layout]
    labels = dict(enumerate(weights.classes))
    changes = {
        "architectures": [name],
        "id2label": {str(i): label for i, label in labels.items()},
        "label2id": {label: i for i, label in labels.items()},
    }
    heads = last_layer(weights, last)
    return Target(target.layout, target.config | changes, target.encoder, prefix, heads)


def with_decoder(target: Target, weights: Weights, run: Mapping[str, Any]) -> Target:
    """MAE's encoder and decoder: ViTMAEForPreTraining."""
    if target.layout != "hf_vit":
        raise UserError("transformers' MAE has a plain ViT; leave out --heads")
    decoder = run["decoder"]
    config = target.config | {
        "model_type": "vit_mae",
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": decoder["dim"],
        "decoder_num_hidden_layers": decoder["depth"],
        "decoder_num_attention_heads": decoder["heads"],
        "decoder_intermediate_size": 4 * decoder["dim"],
        "mask_ratio": run["mask_ratio"],
        "norm_pix_loss": run["norm_pix"],
    }
    layout = convert.layout("hf_vit_mae")
    heads = convert.to_state("hf_vit_mae", weights.heads, table=layout.heads)
    grid = weights.model["image_size"] // weights.model["patch"]
    heads["decoder.decoder_pos_embed"] = sincos(decoder["dim"], grid, True)[None]
    return Target("hf_vit_mae", config, target.encoder, "vit.", heads)


def with_token_head(target: Target, weights: Weights, run: Mapping[str, Any]) -> Target:
    """BERT with the layers that predict masked tokens: BertForMaskedLM."""
    layout = convert.layout("hf_bert")
    heads = convert.to_state("hf_bert", weights.heads, table=layout.heads)
    config = target.config | {"architectures": ["BertForMaskedLM"]}
    return Target(target.layout, config, target.encoder, "bert.", heads)


def with_token_logits(target: Target, weights: Weights, run: Mapping[str, Any]) -> Target:
    """GPT-2 with its token embeddings as last layer: GPT2LMHeadModel."""
    config = target.config | {"architectures": ["GPT2LMHeadModel"]}
    return Target(target.layout, config, target.encoder, "transformer.")


MAKERS = {"mae": with_decoder, "bert": with_token_head, "gpt": with_token_logits}  # by method


def with_pretraining_head(target: Target, weights: Weights, run: Mapping[str, Any]) -> Target:
    """The encoder with the head of its method; raises `UserError` if transformers has no such."""
    method = str(run.get("method"))
    if method not in MAKERS:
        raise UserError(
            f"transformers has no model with the head of config.method={method!r}; "
            "leave out --heads"
        )
    return MAKERS[method](target, weights, run)
