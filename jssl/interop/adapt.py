"""Adapts weights to other sizes of images, patches and rows, and to other numbers of channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jssl.config import UserError
from jssl.nn.positions import bicubic, sincos

Array = np.ndarray


def with_prefix(encoder: Mapping[str, Array]) -> dict[str, Array]:
    """Positions and registers as jssl has them: a position for the class token alone.

    timm also has files in which registers have positions, and files in which no leading token has
    one. A token and its position are added before the first block, so the sum may lie in either.

    Args:
      encoder: {our name: array} with "pos_embed" [1, rows, D].

    Returns:
      {"pos_embed": [1, 1 + N, D], or [1, N, D] without class token; "reg_token": if there are any}.

    Raises:
      UserError: the positions are of no square grid.
    """
    positions = encoder["pos_embed"]
    registers = encoder.get("reg_token")
    rows = positions.shape[1]
    n = int("cls_token" in encoder)
    r = 0 if registers is None else registers.shape[1]
    if is_grid(rows - n):
        return {}
    if n and is_grid(rows):
        return {"pos_embed": np.pad(positions, ((0, 0), (1, 0), (0, 0)))}
    if registers is not None and is_grid(rows - n - r):
        first, of_registers, patches = np.split(positions, [n, n + r], axis=1)
        return {
            "pos_embed": np.concatenate([first, patches], axis=1),
            "reg_token": registers + of_registers,
        }
    raise UserError(f"its {rows} positions are of no square grid of patches")


def is_grid(n: int) -> bool:
    """Whether n is the square of a positive integer."""
    return n > 0 and round(n**0.5) ** 2 == n


def resized_positions(positions: Array, rows: int, class_token: bool) -> Array:
    """Positions [1, P + N, D] for another grid, [1, rows, D]; P is 1 with a class token.

    Bicubic interpolation between the centers of the patches, without antialiasing, as transformers'
    interpolate_pos_encoding.
    """
    prefix = int(class_token)
    first, patches = np.split(positions, [prefix], axis=1)
    old = round(patches.shape[1] ** 0.5)
    new = round((rows - prefix) ** 0.5)
    weight = bicubic(old, new, new / old)
    table = patches.reshape(old, old, -1)
    table = np.einsum("ig,jh,ghd->ijd", weight, weight, table)
    return np.concatenate([first, table.reshape(1, new * new, -1)], axis=1).astype(np.float32)


def resized_patches(kernel: Array, channels: int, patch: int) -> Array:
    """The kernel of patches [p * p * C, D] for patches of another side, [patch * patch * C, D].

    FlexiViT (Beyer et al., 2023, arXiv:2212.08013, section 3.4): with B the matrix that resizes a
    patch, the new kernel is the pseudoinverse of B transposed times the old one. So the embedding
    of a resized patch is that of the patch, if the new one is larger.
    """
    old = round((len(kernel) / channels) ** 0.5)
    line = Image.fromarray(np.eye(old, dtype=np.float32)).resize(
        (old, patch), Image.Resampling.BILINEAR
    )
    one = np.asarray(line, np.float64)  # [patch, old]
    both = np.linalg.pinv(np.kron(one, one).T)  # [patch * patch, old * old]
    table = kernel.reshape(old * old, -1)
    return (both @ table).reshape(patch * patch * channels, -1).astype(np.float32)


def other_channels(kernel: Array, old: int, new: int) -> Array:
    """A kernel [..., old, D] for `new` channels: repeated in turn, times old / new.

    One channel gets the sum of all, so that a gray image has the features of its three equal
    channels. So does timm (models/_manipulate.py, adapt_input_conv).
    """
    if new == 1:
        return kernel.sum(-2, keepdims=True)
    order = np.arange(new) % old
    return (kernel[..., order, :] * (old / new)).astype(np.float32)


def fit(
    encoder: Mapping[str, Array],
    model: Mapping[str, Any],
    section: Mapping[str, Any],
    channels: int,
    shapes: Mapping[str, Any],
) -> tuple[dict[str, Array], list[str]]:
    """Resizes what may differ between a file and the encoder of a config.

    Args:
      encoder: {our name: array} of the file.
      model: the section `model` that fits the file.
      section: the section `model` of the config.
      channels: of the config's images.
      shapes: {our name: anything with a shape} of the config's encoder.

    Returns:
      (tensors, one note for each change).

    Raises:
      UserError: the file has positions that the encoder has not.
    """
    fitted = dict(encoder)
    notes = []
    for name in ("patch_embed/kernel", "conv1/kernel"):
        if name in fitted:
            fitted[name], changes = fit_pixels(fitted[name], model, section, channels)
            notes += changes
    words = fitted.get("tokens/embedding")
    if words is not None and len(words) < shapes["tokens/embedding"].shape[0]:
        fitted["tokens/embedding"], note = grown_vocabulary(
            words, shapes["tokens/embedding"].shape[0]
        )
        notes.append(note)
    if "pos_embed" in shapes and model.get("positions") == "sincos":
        grid = model["image_size"] // model["patch"]
        dim = shapes["pos_embed"].shape[-1]
        fitted["pos_embed"] = sincos(dim, grid, model["class_token"])[None]
    table = fitted.get("pos_embed")
    if table is None:
        return fitted, notes
    if "pos_embed" not in shapes:
        check_sincos(table, model)
        del fitted["pos_embed"]
        return fitted, notes
    rows = shapes["pos_embed"].shape[-2]
    if table.ndim == 2:  # of text
        if table.shape[0] > rows:
            notes.append(f"positions {table.shape[0]} -> {rows} (the first ones)")
            fitted["pos_embed"] = table[:rows]
    elif table.shape[1] != rows:
        fitted["pos_embed"] = resized_positions(table, rows, model["class_token"])
        grids = [f"{round(n**0.5)}x{round(n**0.5)}" for n in (table.shape[1], rows)]
        notes.append(f"positions {grids[0]} -> {grids[1]} (bicubic)")
    return fitted, notes


def grown_vocabulary(words: Array, rows: int) -> tuple[Array, str]:
    """Embeddings [V, D] for a tokenizer with more special tokens: new ones are the mean of all."""
    new = np.repeat(words.mean(0, keepdims=True), rows - len(words), axis=0)
    note = f"tokens {len(words)} -> {rows} (the new ones are the mean of the others)"
    return np.concatenate([words, new]), note


def fit_pixels(
    kernel: Array, model: Mapping[str, Any], section: Mapping[str, Any], channels: int
) -> tuple[Array, list[str]]:
    """The kernel of patches, or of a ResNet's first layer, for a config's images; see `fit`."""
    notes = []
    patch = model.get("patch")
    if patch is None:
        old = kernel.shape[2]
    else:
        old = len(kernel) // patch**2
        kernel = kernel.reshape(patch, patch, old, -1)
    if old != channels:
        kernel = other_channels(kernel, old, channels)
        notes.append(f"channels {old} -> {channels} ({'sum' if channels == 1 else 'repeated'})")
    if patch is None:
        return kernel, notes
    kernel = kernel.reshape(patch * patch * channels, -1)
    if patch != section["patch"]:
        kernel = resized_patches(kernel, channels, section["patch"])
        notes.append(f"patches {patch}x{patch} -> {section['patch']}x{section['patch']} (FlexiViT)")
    return kernel, notes


def check_sincos(table: Array, model: Mapping[str, Any]) -> None:
    """Raises `UserError` unless positions are the fixed ones of sine and cosine."""
    grid = model["image_size"] // model["patch"]
    fixed = sincos(table.shape[-1], grid, model["class_token"])
    if np.abs(table[0, -grid * grid :] - fixed[-grid * grid :]).max() > 1e-4:
        raise UserError("the file has learned positions; use --config.model.positions=learned")
