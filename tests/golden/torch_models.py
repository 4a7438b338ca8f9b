"""Golden numbers for tests/methods/test_parity.py from PyTorch models: timm's VisionTransformer and
Hugging Face transformers' BertModel and GPT2Model, tiny and random.

Needs torch, timm and transformers, in an environment of its own, and nothing of jssl. Run as

    python tests/golden/torch_models.py

It writes torch_models.npz beside itself: "versions" (JSON), and for each model "<model>/state/..."
(its state dict), "<model>/input/...", "<model>/output", "<model>/weight", and
"<model>/gradient/..." of sum(output * weight) with respect to each parameter. The weight is drawn,
and zero at padding.

Every parameter is drawn, biases and LayerNorms too. What goes into LayerNorms is small where the
model allows it, so that the epsilon shows.
"""

import json
import pathlib
import re

import numpy as np
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

OUT = pathlib.Path(__file__).with_suffix(".npz")
DIM, DEPTH, HEADS, VOCAB, LENGTH = 16, 2, 2, 23, 12
LENGTHS = (7, 5)  # of the two documents; the row of the shorter ends in padding


def fill(model, rng, small, scale):
    """Draws every parameter; those whose name matches `small` are so much smaller."""
    for name, p in model.named_parameters():
        if re.search(r"norm|ln_|LayerNorm", name):
            values = rng.uniform(0.3, 1.3, p.shape)
        else:
            values = rng.normal(size=p.shape) * 1.5 * DIM**-0.5
        if re.search(small, name):
            values = values * scale
        p.data = torch.tensor(np.float32(values))
    return model.eval()


def case(name, model, inputs, output, weight):
    """{name in the file: array}, after a backward pass."""
    (output * torch.tensor(weight)).sum().backward()
    found = {f"state/{key}": value for key, value in model.state_dict().items()}
    found |= {f"gradient/{key}": p.grad for key, p in model.named_parameters()}
    found |= {f"input/{key}": value for key, value in inputs.items()}
    found |= {"output": output.detach(), "weight": weight}
    return {f"{name}/{key}": np.asarray(value) for key, value in found.items()}


def vit():
    """Class token, learned positions, qkv bias; the output is of the last LayerNorm."""
    rng = np.random.default_rng(1)
    model = VisionTransformer(
        img_size=12, patch_size=4, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0
    )
    model = fill(model, rng, "cls_token|embed|attn.proj|fc2", 0.01)
    images = np.float32(rng.normal(size=(2, 12, 12, 3)))
    output = model.forward_features(torch.tensor(images.transpose(0, 3, 1, 2)))
    weight = np.float32(rng.normal(size=output.shape))
    return case("vit", model, {"images": images}, output, weight)


def rows(rng):
    """Tokens [2, 7] and where they are real; the padding is not 0, as it must not be seen."""
    tokens = rng.integers(0, VOCAB, (2, max(LENGTHS)))
    real = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    return tokens, real


def bert():
    rng = np.random.default_rng(2)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        max_position_embeddings=LENGTH,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False)
    model = fill(model, rng, "_embeddings", 0.001)
    tokens, real = rows(rng)
    output = model(torch.tensor(tokens), torch.tensor(real.astype(int))).last_hidden_state
    weight = np.float32(rng.normal(size=output.shape)) * real[..., None]
    inputs = {"tokens": np.int32(tokens), "segment": np.int32(real)}
    return case("bert", model, inputs, output, weight)


def gpt2():
    """No mask: padding is at the end, where no real token looks."""
    rng = np.random.default_rng(3)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=DIM,
        n_layer=DEPTH,
        n_head=HEADS,
        n_positions=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = fill(GPT2Model(config), rng, "wte|wpe|c_proj", 0.01)
    tokens, real = rows(rng)
    output = model(torch.tensor(tokens)).last_hidden_state
    weight = np.float32(rng.normal(size=output.shape)) * real[..., None]
    inputs = {"tokens": np.int32(tokens), "segment": np.int32(real)}
    return case("gpt2", model, inputs, output, weight)


def main():
    torch.set_num_threads(1)
    versions = {m.__name__: m.__version__ for m in (torch, timm, transformers, np)}
    np.savez_compressed(OUT, versions=json.dumps(versions), **vit(), **bert(), **gpt2())


if __name__ == "__main__":
    main()
