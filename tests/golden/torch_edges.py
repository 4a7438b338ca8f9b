"""Golden numbers for tests/nn/test_edges.py from PyTorch: its operations on numbers that are very
small, very large, infinite or NaN, and its bicubic interpolation.

Needs torch, in an environment of its own, and nothing of jssl. Run as

    python tests/golden/torch_edges.py

It writes torch_edges.json beside itself. Losses are written here from the papers' formulas with
torch's own operations, as their authors' code has them (normalize, batch_norm, cross_entropy,
smooth_l1_loss). Infinite numbers and NaN are the strings "inf", "-inf" and "nan".
"""

import json
import math
import pathlib
import re

import numpy as np
import torch
import torch.nn.functional as F

OUT = pathlib.Path(__file__).with_suffix(".json")
SCALES = (1e-20, 1e-13, 1e-9, 1e-7, 1e-4, 1.0, 1e4, 1e9, 1e13, 1e18)
GRIDS = ((14, 6), (8, 4), (14, 3), (7, 10), (2, 1))  # of the table, of the crop


def exact(x):
    """Nested lists of the shortest decimals that read back as the same float32, or of words."""
    x = np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float32)
    if x.ndim:
        return [exact(row) for row in x]
    return float(str(x)) if math.isfinite(x) else str(x)


def zero_or(gradient, x):
    return torch.zeros_like(x) if gradient is None else gradient


def graded(function, *arrays):
    """{"value", "gradients"} of a function that returns a scalar; zero where none flows."""
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    value = function(*tensors)
    value.backward()
    return {"value": exact(value), "gradients": [exact(zero_or(x.grad, x)) for x in tensors]}


def normalized():
    rows, weight = np.float32([[3, -4, 0, 1], [1, 1, 1, 2]]), torch.arange(8.0).reshape(2, 4)
    cases = []
    for scale in SCALES:
        x = np.float32(rows * scale)
        case = {"input": exact(x), "output": exact(F.normalize(torch.tensor(x), dim=-1))}
        cases.append(case | graded(lambda x: (F.normalize(x, dim=-1) * weight).sum(), x))
    return cases


def interpolated():
    """DINO's interpolate_pos_encoding (vision_transformer.py:186 to 191)."""
    cases = []
    for grid, side in GRIDS:
        table = np.float32(np.random.default_rng(grid).normal(size=(grid, grid, 3)))
        factor = (side + 0.1) / math.sqrt(grid * grid)
        moved = torch.tensor(table).permute(2, 0, 1)[None]
        small = F.interpolate(moved, scale_factor=(factor, factor), mode="bicubic")
        assert small.shape[-2:] == (side, side)
        cases.append({"table": exact(table), "resized": exact(small[0].permute(1, 2, 0))})
    return cases


def off_diagonal(c):
    return (c * c)[~torch.eye(len(c), dtype=torch.bool)].sum()


def barlow(a, b):
    a, b = (F.batch_norm(z, None, None, training=True) for z in (a, b))
    c = a.T @ b / len(a)
    return ((torch.diagonal(c) - 1) ** 2).sum() + 5e-3 * off_diagonal(c)


def vicreg(a, b):
    def hinge(z):
        return F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()

    def still(z):
        return z - z.mean(0)

    def moment(z):
        return still(z).T @ still(z) / (len(z) - 1)

    covariance = sum(off_diagonal(moment(z)) / z.shape[1] for z in (a, b))
    return 25 * F.mse_loss(a, b) + 25 * (hinge(a) + hinge(b)) / 2 + covariance


def nt_xent(a, b):
    z = F.normalize(torch.cat([a, b]), dim=-1)
    logits = z @ z.T / 0.1
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def cosine(a, b):
    return 2 - 2 * (F.normalize(a, dim=-1) * F.normalize(b.detach(), dim=-1)).sum(-1).mean()


def smooth_l1(a, b):
    return F.smooth_l1_loss(a, b, beta=2.0)


def soft_cross_entropy(a, b):
    return -(torch.softmax(b.detach(), -1) * F.log_softmax(a, -1)).sum(-1).mean()


LOSSES = (barlow, vicreg, nt_xent, cosine, smooth_l1, soft_cross_entropy)


def losses():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 4)).astype(np.float32)
    cases = []
    for loss in LOSSES:
        for spoiled in (*SCALES, math.inf, -math.inf, math.nan):
            x, y = a.copy(), b.copy()
            if math.isfinite(spoiled):
                x, y = x * np.float32(spoiled), y * np.float32(spoiled)
            else:
                x[1, 2] = spoiled
            given = {"loss": loss.__name__, "spoiled": str(spoiled)}
            cases.append(given | {"inputs": [exact(x), exact(y)]} | graded(loss, x, y))
    return cases


def main():
    torch.set_num_threads(1)
    found = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "normalize": normalized(),
        "bicubic": interpolated(),
        "losses": losses(),
    }
    text = json.dumps(found, indent=1)
    text = re.sub(r"\[[^][]*\]", lambda row: " ".join(row[0].split()), text)  # a row on a line
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
