"""Positions of tokens: fixed sine-cosine tables, learned tables of other sizes, and rotations."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

ROPE_BASE = 100.0  # of patches: facebookresearch/dinov3 layers/rope_position_encoding.py


def resized(table: Array, side: int) -> Array:
    """Resizes positions to another grid: float32 [grid, grid, D] -> [side, side, D].

    As facebookresearch/dino vision_transformer.py, interpolate_pos_encoding (lines 174 to 194; iBOT
    has the same): torch's bicubic interpolation by the factor (side + .1) / grid. The reference
    adds the tenth of a patch against rounding errors; it moves the points of the new grid.
    """
    weight = bicubic(len(table), side, (side + 0.1) / len(table))
    return jnp.einsum("ig,jh,ghd->ijd", weight, weight, table, precision="highest")


@lru_cache
def bicubic(old: int, new: int, factor: float) -> np.ndarray:
    """Bicubic interpolation of a line as a matrix, float32 [new, old].

    It is torch.nn.functional.interpolate(mode="bicubic", scale_factor=factor): Keys' cubic
    convolution with a = -.75, at the centers of the pixels (corners are not aligned). A point
    outside the line has the value of the nearest point inside. There is no antialiasing.
    """
    a = -0.75
    weight = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) / factor - 0.5
        first = int(np.floor(center)) - 1
        for j in range(first, first + 4):
            x = abs(center - j)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weight[i, min(max(j, 0), old - 1)] += near if x <= 1 else far
    return weight.astype(np.float32)


@lru_cache
def sincos(dim: int, grid: int, class_token: bool) -> np.ndarray:
    """Fixed 2-D sine-cosine positions: float32 [grid * grid, dim], MAE's util/pos_embed.py.

    The first half of the features encodes the column of a patch, the second half its row (MAE:
    "here w goes first"). Each half is sin(p w_i), then cos(p w_i), w_i = 10000^(-i / (dim / 4)).
    With a class token there is one more row in front, of zeros.
    """
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    angles = np.arange(grid)[:, None] * omega
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [grid, dim / 2]
    column = np.tile(line, (grid, 1))
    row = np.repeat(line, grid, axis=0)
    table = np.concatenate([column, row], axis=1)
    return np.pad(table, ((int(class_token), 0), (0, 0))).astype(np.float32)


def patch_angles(side: int, dim: int, scale: Array | float = 1.0) -> Array:
    """The angles of rotary positions of patches, float32 [side * side, dim / 2].

    DINOv3 (Simeoni et al., 2025, arXiv:2508.10104, section 3.2; facebookresearch/dinov3
    layers/rope_position_encoding.py): the center of a patch has coordinates in -1 to 1. The first
    half of the angles is 2 pi * row * 100^(-4i / dim), the second half has the column.

    Args:
      side: patches along a side of the image.
      dim: the width of a head, a multiple of 4.
      scale: float32 []; it multiplies the coordinates.
    """
    centers = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
    frequency = 2 * np.pi * ROPE_BASE ** (-np.arange(0, 1, 4 / dim, dtype=np.float32))
    line = np.outer(centers, frequency).astype(np.float32)  # [side, dim / 4]
    rows = np.repeat(line, side, axis=0)
    columns = np.tile(line, (side, 1))
    return jnp.asarray(np.concatenate([rows, columns], axis=1)) * scale


def rotary_angles(position: Array, dim: int) -> Array:
    """The angles of rotary positions, float32 [..., L, dim / 2]: position * 10000^(-2i / dim).

    Source: Su et al., 2021, RoFormer, arXiv:2104.09864, equation 15.

    Args:
      position: int32 [..., L], the positions.
      dim: the width of a head.
    """
    return position[..., None] * 10000.0 ** (-jnp.arange(0, dim, 2) / dim)


def apply_rotary(x: Array, angles: Array) -> Array:
    """Rotary positions: rotates each plane (i, i + dim / 2) of x [B, T, heads, dim] by its angle.

    The planes of the paper are (2i, 2i + 1), which only changes the order of a head's features.
    GPT-NeoX and Llama also use halves. angles: float32 [B or 1, T, dim / 2].
    """
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos = jnp.cos(angles)[..., None, :]
    sin = jnp.sin(angles)[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
