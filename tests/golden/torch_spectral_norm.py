"""Golden numbers for tests/nn/test_spectral_norm.py from PyTorch's spectral norm.

Needs torch, in an environment of its own, and nothing of jssl. Run as

    python tests/golden/torch_spectral_norm.py

It writes torch_spectral_norm.json beside itself. For a convolution and a linear layer: the raw
weight, the vector u at first, the input, the weight of the sum of the outputs; and after each of
three training passes the output, u, and the gradient of the weighted sum with respect to the raw
weight and the input. No optimizer steps between them.
"""

import json
import pathlib
import re

import numpy as np
import torch
from torch.nn.utils import spectral_norm

OUT = pathlib.Path(__file__).with_suffix(".json")
EPS = 1e-6


def exact(x):
    """Nested lists of the shortest decimals that read back as the same float32."""
    x = np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float32)
    return [exact(row) for row in x] if x.ndim else float(str(x))


def passes(layer, x, weight):
    """What three training passes give; the layer keeps its next u."""
    layer = spectral_norm(layer, eps=EPS)
    found = {"weight": exact(layer.weight_orig), "u": exact(layer.weight_u), "input": exact(x)}
    found |= {"output_weight": exact(weight), "passes": []}
    for _ in range(3):
        given = x.clone().requires_grad_()
        layer.zero_grad()
        output = layer(given)
        (output * weight).sum().backward()
        found["passes"].append(
            {
                "output": exact(output),
                "u": exact(layer.weight_u),
                "weight_gradient": exact(layer.weight_orig.grad),
                "input_gradient": exact(given.grad),
            }
        )
    return found


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    convolution = torch.nn.Conv2d(2, 4, 3, padding=1, bias=False)
    linear = torch.nn.Linear(5, 3, bias=False)
    found = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "conv": passes(convolution, torch.randn(2, 2, 3, 3), torch.randn(2, 4, 3, 3)),
        "dense": passes(linear, torch.randn(4, 5), torch.randn(4, 3)),
    }
    text = json.dumps(found, indent=1)
    text = re.sub(r"\[[^][]*\]", lambda row: " ".join(row[0].split()), text)  # a row on a line
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
