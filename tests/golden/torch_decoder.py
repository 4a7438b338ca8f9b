"""Golden numbers for tests/nn/test_decoder.py: decoders of images, written in PyTorch.

Needs torch, and nothing of jssl. Run as

    python tests/golden/torch_decoder.py

It writes torch_decoder.npz beside itself: for each case the parameters in the layout of Flax, drawn
by NumPy with a fixed seed, a code, and the image that PyTorch decodes from it.
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

OUT = pathlib.Path(__file__).with_suffix(".npz")
SIDE, WIDTH, DIM, CHANNELS, BATCH = 2, 8, 3, 3, 2  # WIDTH: of the first map; 4 after one doubling


class Parameters:
    """Draws parameters by name, and remembers them in the layout of Flax."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.drawn = {}

    def draw(self, name, *shape, around=0.0):
        values = (around + 0.4 * self.rng.normal(size=shape)).astype(np.float32)
        self.drawn[name] = values
        return torch.tensor(values)

    def conv(self, x, name, size, out):
        kernel = self.draw(f"{name}/kernel", size, size, x.shape[1], out).permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, self.draw(f"{name}/bias", out), padding=size // 2)

    def double(self, x, kind, name, out):
        if kind == "resize":
            return self.conv(functional.interpolate(x, scale_factor=2), name, 3, out)
        kernel = self.draw(f"{name}/kernel", 4, 4, x.shape[1], out).permute(2, 3, 0, 1).flip(2, 3)
        bias = self.draw(f"{name}/bias", out)
        return functional.conv_transpose2d(x, kernel, bias, stride=2, padding=1)

    def norm(self, x, kind, name):
        if kind == "none":
            return x
        width = x.shape[1]
        scale = self.draw(f"{name}/scale", width, around=1.0)
        bias = self.draw(f"{name}/bias", width)
        if kind == "group":
            return functional.group_norm(x, min(8, width), scale, bias, eps=1e-6)
        return functional.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)


def decode(p, code, upsample, norm):
    """A decoder with one doubling and one residual block at each size."""
    if code.ndim == 2:
        kernel = p.draw("unfold/kernel", DIM, SIDE * SIDE * WIDTH)
        x = code @ kernel + p.draw("unfold/bias", SIDE * SIDE * WIDTH)
        x = x.reshape(-1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
    else:
        x = p.conv(code.permute(0, 3, 1, 2), "unfold", 3, WIDTH)
    for stage, width in enumerate((WIDTH, WIDTH // 2)):
        if stage:
            x = p.double(x, upsample, f"up{stage}", width)
        x = p.norm(x, norm, f"norm{stage}").relu()
        y = p.conv(x, f"block{stage}_0_conv1", 3, width // 2)
        y = p.norm(y, norm, f"block{stage}_0_norm").relu()
        x = (x + p.conv(y, f"block{stage}_0_conv2", 1, width)).relu()
    return p.conv(x, "image", 3, CHANNELS).permute(0, 2, 3, 1)


def main():
    arrays = {}
    cases = {
        "vector": ((BATCH, DIM), "transposed", "group"),
        "map": ((BATCH, SIDE, SIDE, DIM), "resize", "batch"),
        "plain": ((BATCH, SIDE, SIDE, DIM), "transposed", "none"),
    }
    for seed, (case, (shape, *kinds)) in enumerate(cases.items()):
        p = Parameters(seed)
        code = p.rng.normal(size=shape).astype(np.float32)
        image = decode(p, torch.tensor(code), *kinds)
        arrays |= {f"{case}/params/{name}": value for name, value in p.drawn.items()}
        arrays |= {f"{case}/code": code, f"{case}/image": image.numpy()}
    np.savez_compressed(OUT, **arrays)
    print(f"torch {torch.__version__}: {len(arrays)} arrays in {OUT.name}")


if __name__ == "__main__":
    main()
