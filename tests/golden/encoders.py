"""Golden numbers for tests/interop: small random encoders of timm and transformers, as folders.

Needs torch, timm and transformers, in an environment of its own, and nothing of jssl. Run as

    python tests/golden/encoders.py

It writes encoders.npz beside itself: "versions" (JSON), and for each encoder "<name>/config" (the
text of config.json), "<name>/state/..." (float16 where that is exact), "<name>/input" and
"<name>/output": all tokens after the last LayerNorm, or a ResNet's pooled features.
"""

import functools
import json
import pathlib
import sys

import numpy as np
import torch

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import peer_steps  # noqa: E402, F401  (timm imports torchvision, whose operators may be missing)
import timm  # noqa: E402
import transformers  # noqa: E402
from timm.models.eva import Eva  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

OUT = pathlib.Path(__file__).with_suffix(".npz")
SIZE = 16
VIT = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
    image_size=SIZE, patch_size=4,
)  # fmt: skip
TEXT = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
    vocab_size=23, max_position_embeddings=12,
)  # fmt: skip
ROBERTA = dict(max_position_embeddings=14, type_vocab_size=1)
TIMM = dict(
    img_size=SIZE, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0
)  # fmt: skip
DINOV2 = {key: value for key, value in VIT.items() if key != "intermediate_size"}
DINOV3 = VIT | dict(num_register_tokens=2, layerscale_value=0.5)
BEIT = VIT | dict(
    use_absolute_position_embeddings=True, use_mean_pooling=False, layer_scale_init_value=0.5
)


def encoders():
    """{name: (model, config.json)}."""
    made = {
        "vit": transformers.ViTModel(transformers.ViTConfig(**VIT)),
        "vit_mae": transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(
                **VIT, decoder_hidden_size=16, decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2, decoder_intermediate_size=64, mask_ratio=0.0,
            )
        ),
        "ijepa": transformers.IJepaModel(transformers.IJepaConfig(**VIT)),
        "beit": transformers.BeitModel(transformers.BeitConfig(**BEIT)),
        "data2vec": transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**BEIT)),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
        "dinov2_swiglu": transformers.Dinov2Model(
            transformers.Dinov2Config(**DINOV2, use_swiglu_ffn=True)
        ),
        "dinov2_registers": transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=3)
        ),
        "dinov3": transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**DINOV3)),
        "dinov3_gated": transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**DINOV3, use_gated_mlp=True, hidden_act="silu")
        ),
        "resnet": transformers.ResNetModel(
            transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
            )
        ),
        "bert": transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)),
        "roberta": transformers.RobertaModel(
            transformers.RobertaConfig(**TEXT | ROBERTA),
            add_pooling_layer=False,
        ),
        "gpt2": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=23, n_embd=32, n_layer=2, n_head=2, n_positions=12, bos_token_id=None,
                eos_token_id=None,
            )
        ),
    }  # fmt: skip
    made = {name: (model, model.config.to_diff_dict()) for name, model in made.items()}
    for model, config in made.values():
        config |= {"architectures": [type(model).__name__], "model_type": model.config.model_type}
    plain = VisionTransformer(**TIMM)
    registers = VisionTransformer(**TIMM, reg_tokens=2, no_embed_class=True, init_values=0.5)
    rotary = Eva(
        **TIMM, qkv_bias=True, init_values=0.5, rope_type="dinov3", rope_temperature=100,
        rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=2,
        use_fc_norm=False, norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    for name, model, architecture in (
        ("timm_vit", plain, "vit_small_patch16_224"),
        ("timm_registers", registers, "vit_small_patch14_reg4_dinov2"),
        ("timm_rotary", rotary, "vit_small_patch16_dinov3_qkvb"),
    ):
        made[name] = (model, {"architecture": architecture, "model_args": {"num_heads": 2}})
    return made


def fill(model, rng):
    """Draws every parameter in float16, and every running statistic."""
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if not p.is_floating_point() or "pos_embed" in name and "decoder" in name:
            continue
        if any(part in name for part in ("inv_freq", "rope", "periods", "k_bias")):
            continue
        if "mae" in type(model).__name__.lower() and "position_embeddings" in name:
            continue
        fan = np.prod(p.shape[1:]) if p.ndim > 1 else 1
        values = rng.normal(size=p.shape) * (fan**-0.5 if p.ndim > 1 else 0.2)
        if "norm" in name.lower() or "ln_" in name or "var" in name or "lambda" in name:
            values = rng.uniform(0.3, 1.3, p.shape)
        p.data = torch.tensor(np.float32(np.float16(values)))
    return model.eval()


def output(name, model, rng):
    """(input, all tokens of the encoder)."""
    if name in ("bert", "roberta", "gpt2"):
        tokens = rng.integers(3, 23, (2, 9))
        inner = {"bert": "bert", "gpt2": "transformer"}.get(name)
        encoder = getattr(model, inner) if inner else model
        return np.int32(tokens), encoder(torch.tensor(tokens)).last_hidden_state
    images = np.float32(rng.normal(size=(2, SIZE, SIZE, 3)))
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    if name.startswith("timm"):
        return images, model.forward_features(pixels)
    if name == "resnet":
        return images, model(pixels).pooler_output[..., 0, 0]
    if name == "vit_mae":
        encoder = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False)
        encoder.load_state_dict(model.vit.state_dict())
        return images, encoder.eval()(pixels).last_hidden_state
    return images, model(pixels).last_hidden_state


def main():
    torch.set_num_threads(1)
    versions = {m.__name__: m.__version__ for m in (torch, timm, transformers, np)}
    arrays = {"versions": json.dumps(versions)}
    for number, (name, (model, config)) in enumerate(encoders().items()):
        rng = np.random.default_rng(number)
        fill(model, rng)
        with torch.no_grad():
            x, y = output(name, model, rng)
        arrays |= {f"{name}/config": json.dumps(config), f"{name}/input": x}
        arrays[f"{name}/output"] = np.float32(y)
        for key, value in saved(model).items():
            array = np.asarray(value)
            small = array.astype(np.float16)
            arrays[f"{name}/state/{key}"] = small if np.array_equal(small, array) else array
    np.savez_compressed(OUT, **arrays)


def saved(model):
    """The tensors under the names of the file that the library writes."""
    if not hasattr(model, "save_pretrained"):
        return model.state_dict()
    import tempfile

    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


if __name__ == "__main__":
    main()
