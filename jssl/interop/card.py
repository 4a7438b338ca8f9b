"""The model card of an exported encoder: README.md, with YAML for the Hugging Face hub."""

import json
from collections.abc import Mapping
from typing import Any

from jssl.interop.weights import Weights

LOADING = {
    "timm": """import timm

model = timm.create_model("local-dir:PATH", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))""",
    "hf": """from transformers import {model}, {processor}

model = {model}.from_pretrained("PATH").eval()
processor = {processor}.from_pretrained("PATH")""",
    "torchvision": """import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{name}(weights=None)
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("PATH/model.safetensors"))""",
    "safetensors": """from safetensors.numpy import load_file

tensors = load_file("PATH/model.safetensors")  # {{"blocks/0/attn/qkv/kernel": array}}""",
    "stablehlo": """import sys

sys.path.append("PATH")
from load import features  # uint8 [B, size, size, C], or int32 [B, L] -> float32 [B, D]""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("PATH/encoder.onnx")
features = session.run(["features"], {inputs})[0]
# {arrays} -> float32 [B, D]""",
}
LIBRARY = {"timm": "timm", "hf": "transformers", "torchvision": "torchvision", "onnx": "onnx"}


def card(
    kind: str,
    weights: Weights,
    run: Mapping[str, Any],
    accuracies: Mapping[str, float],
    facts: Mapping[str, Any],
    is_text: bool,
) -> str:
    """The text of README.md.

    Args:
      kind: the format.
      weights: the encoder.
      run: the config of the run.
      accuracies: of this checkpoint, {} if they were not measured.
      facts: "step", "commit", "recipe", "examples".
      is_text: whether the encoder reads text.
    """
    data = run["data"]
    source = data["name"] or data["path"] or data["source"]
    header = {
        "license": "other",
        "library_name": LIBRARY.get(kind, "jssl"),
        "tags": ["self-supervised-learning", "jssl", str(run["method"])],
        "pipeline_tag": "feature-extraction" if is_text else "image-feature-extraction",
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    lines = [f"| {name} | {value:.4f} |" for name, value in accuracies.items()]
    lines = lines or ["| not measured | |"]
    name = weights.model["name"]
    processor = "AutoTokenizer" if is_text else "AutoImageProcessor"
    auto = "AutoModelForImageClassification" if weights.classes else "AutoModel"
    inputs = '{"pixels": images}'
    arrays = "uint8 [B, size, size, C], cropped"
    if is_text:
        inputs = '{"ids": ids, "segments": segments}'
        arrays = "int32 [B, L] each; a segment is 1 at a token, and 0 at the padding after them"
    loading = LOADING[kind].format(
        processor=processor, name=name, model=auto, inputs=inputs, arrays=arrays
    )
    about = "An encoder that jssl pretrained without labels."
    if weights.classes:
        about += f" Then it was fine-tuned to tell {len(weights.classes)} classes."
    model = ", ".join(f"{key}={value!r}" for key, value in weights.model.items())
    return f"""---
{yaml}
---

# {name}, pretrained by {run["method"]}

{about}

## Load it

`PATH` is this folder.

```python
{loading}
```

## How it was made

- Method: {run["method"]}; recipe: {facts["recipe"] or "not recorded"}.
- Data: {source}, split {data["split"]}, {facts["examples"]:,} examples.
- Steps: {facts["step"]:,} of {run["steps"]:,}, {run["batch_size"]:,} examples each.
- Model: {model}.
- jssl commit: {facts["commit"] or "not recorded"}.

| on the labels of split {run["eval"]["split"]} | value |
|---|---|
{chr(10).join(lines)}

## Use and limits

The license is yours to name: `license` above says "other". It depends on the data too.
The features are for classification, retrieval and fine-tuning on data like that of the pretraining.
They carry the biases of that data. They were not tested for decisions about people.
"""
