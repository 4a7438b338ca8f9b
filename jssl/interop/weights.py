"""Weights under the names of timm's VisionTransformer and Hugging Face's BertModel and GPT2Model.

A state dict is {name: NumPy array}, as safetensors.numpy.load_file returns it. The parameters of
jssl are `params["encoder"]` of `jssl.nn.vit` or `jssl.nn.text`. A conversion changes names and the
order of axes, but no number and no dtype. `from_state`, then `to_state`, gives the same state dict.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jssl.config import UserError, suggest


class Layout(NamedTuple):
    """The names of a model's tensors in another library.

    Attributes:
      table: lines of (our name, their name, kind), see `KINDS`. "*" is the number of the layer.
        Their tensors of "a|b" are joined along the first axis.
      prefix: the prefix of all names in a model with a head, or under DataParallel.
      left: a regular expression of the names that are ignored (heads, masks, position ids).
      renamed: pairs of an old part of a name and its replacement.
    """

    table: str
    prefix: str
    left: str
    renamed: tuple[tuple[str, str], ...] = ()


LAYOUTS = {
    "timm_vit": Layout(
        table="""
            cls_token          cls_token          array
            pos_embed          pos_embed          array
            patch_embed        patch_embed.proj   patch
            blocks/*/norm1     blocks.*.norm1     norm
            blocks/*/attn/qkv  blocks.*.attn.qkv  dense
            blocks/*/attn/proj blocks.*.attn.proj dense
            blocks/*/norm2     blocks.*.norm2     norm
            blocks/*/mlp/fc1   blocks.*.mlp.fc1   dense
            blocks/*/mlp/fc2   blocks.*.mlp.fc2   dense
            norm               norm               norm
        """,
        prefix="module.",
        left=r"head\.",
    ),
    "hf_bert": Layout(
        table="""
            tokens/embedding   embeddings.word_embeddings.weight                  array
            pos_embed          embeddings.position_embeddings.weight              array
            type_embed         embeddings.token_type_embeddings.weight            array
            norm               embeddings.LayerNorm                               norm
            blocks/*/attn/qkv  encoder.layer.*.attention.self.query|key|value     dense
            blocks/*/attn/proj encoder.layer.*.attention.output.dense             dense
            blocks/*/norm1     encoder.layer.*.attention.output.LayerNorm         norm
            blocks/*/mlp/fc1   encoder.layer.*.intermediate.dense                 dense
            blocks/*/mlp/fc2   encoder.layer.*.output.dense                       dense
            blocks/*/norm2     encoder.layer.*.output.LayerNorm                   norm
        """,
        prefix="bert.",
        left=r"pooler\.|cls\.|embeddings\.position_ids$",
        renamed=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    ),
    "hf_gpt2": Layout(
        table="""
            tokens/embedding   wte.weight        array
            pos_embed          wpe.weight        array
            blocks/*/norm1     h.*.ln_1          norm
            blocks/*/attn/qkv  h.*.attn.c_attn   conv1d
            blocks/*/attn/proj h.*.attn.c_proj   conv1d
            blocks/*/norm2     h.*.ln_2          norm
            blocks/*/mlp/fc1   h.*.mlp.c_fc      conv1d
            blocks/*/mlp/fc2   h.*.mlp.c_proj    conv1d
            norm               ln_f              norm
        """,
        prefix="transformer.",
        left=r"lm_head\.|h\.\d+\.attn\.(masked_)?bias$",
    ),
}


def patch_in(w: np.ndarray, channels: int) -> np.ndarray:
    """[D, C, p, p] -> [p * p * C, D], pixels in order (row, column, channel)."""
    return w.transpose(2, 3, 1, 0).reshape(-1, len(w))


def patch_out(w: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of `patch_in`: [p * p * C, D] -> [D, C, p, p]."""
    side = round((len(w) / channels) ** 0.5)
    if side * side * channels != len(w):
        raise UserError(f"channels={channels} do not make square patches of {len(w)} values")
    return w.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)


def same(w: np.ndarray, channels: int | None) -> np.ndarray:
    """The array without a change."""
    return w


def turned(w: np.ndarray, channels: int | None) -> np.ndarray:
    """The transposed array."""
    return w.T


Convert = Callable[[np.ndarray, Any], np.ndarray]  # (array, channels of the images) -> array
Kind = tuple[str, str, Convert, Convert]  # (end of our name, of theirs, import, export)
BIAS: Kind = ("/bias", ".bias", same, same)
KINDS: dict[str, list[Kind]] = {  # the tensors of a line of a table
    "array": [("", "", same, same)],
    "norm": [("/scale", ".weight", same, same), BIAS],
    "dense": [("/kernel", ".weight", turned, turned), BIAS],  # PyTorch has [out, in]
    "conv1d": [("/kernel", ".weight", same, same), BIAS],  # GPT-2's, [in, out] as ours
    "patch": [("/kernel", ".weight", patch_in, patch_out), BIAS],
}


def rules(table: str, depth: int) -> Iterator[tuple[str, list[str], Convert, Convert]]:
    """Yields (our name, their names, theirs -> ours, ours -> theirs) for each of our tensors.

    table: of a `Layout`. depth: the number of layers.
    """
    for line in table.strip().splitlines():
        ours, theirs, kind = line.split()
        stem, _, parts = theirs.rpartition(".")
        for i in range(depth) if "*" in ours else (0,):
            for our_end, their_end, read, write in KINDS[kind]:
                names = [f"{stem}.{part}".removeprefix(".") for part in parts.split("|")]
                names = [(name + their_end).replace("*", str(i)) for name in names]
                yield ours.replace("*", str(i)) + our_end, names, read, write


def layout(name: str) -> Layout:
    """The layout of this name; raises `UserError` if there is none."""
    if name not in LAYOUTS:
        raise UserError(f"weights of {name!r} are not known; {suggest(name, LAYOUTS)}")
    return LAYOUTS[name]


def same_names(names: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raises `UserError`, with the first missing or unexpected name, unless the names are equal."""
    present = set(names)
    required = set(expected)
    missing = sorted(required - present)
    extra = sorted(present - required)
    for wrong, problem in ((missing, "lacks"), (extra, "has no place for")):
        if wrong:
            more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
            raise UserError(f"{what} {problem} {wrong[0]!r}{more}")


def from_state(name: str, state: Mapping[str, Any], scan: bool = False) -> dict[str, Any]:
    """The encoder's parameters from a state dict.

    Args:
      name: a key of `LAYOUTS`.
      state: {name: array} of a model of that library.
      scan: the layers are stacked, for an encoder with `model.scan`.

    Raises:
      UserError: a tensor is missing or unexpected.
    """
    table, prefix, left, renamed = layout(name)
    bare = {key.removeprefix(prefix): np.asarray(value) for key, value in state.items()}
    bare = {key: value for key, value in bare.items() if not re.match(left, key)}
    for old, new in renamed:
        bare = {key.replace(old, new): value for key, value in bare.items()}
    depth = len({number[1] for key in bare if (number := re.search(r"\.(\d+)\.", key))})
    all_rules = list(rules(table, depth))
    expected = [key for _, names, *_ in all_rules for key in names]
    same_names(bare, expected, f"the state dict, read as {name},")
    flat = {}
    for ours, names, read, _ in all_rules:
        joined = bare[names[0]] if len(names) == 1 else np.concatenate([bare[n] for n in names])
        flat[ours] = read(joined, None)
    params: dict[str, Any] = unflatten_dict(flat, sep="/")
    if scan:
        layers = [params["blocks"][str(i)] for i in range(depth)]
        params["blocks"] = {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}
    return params


def to_state(name: str, params: dict[str, Any], channels: int = 3) -> dict[str, np.ndarray]:
    """The inverse of `from_state`.

    A ViT with fixed positions has no parameter "pos_embed"; the caller adds
    ``jssl.nn.vit.sincos(...)[None]``.

    Args:
      name: a key of `LAYOUTS`.
      params: the encoder's parameters; layers may be stacked or not.
      channels: of the images.

    Raises:
      UserError: a parameter is missing or unexpected.
    """
    blocks = params.get("blocks", {})
    if "layers" in blocks:
        layers = blocks["layers"]
        depth = len(jax.tree.leaves(layers)[0])

        def pick(i):
            return jax.tree.map(lambda x: x[i], layers)

        blocks = {str(i): pick(i) for i in range(depth)}
        params = params | {"blocks": blocks}
    flat = {key: np.asarray(value) for key, value in flatten_dict(params, sep="/").items()}
    all_rules = list(rules(layout(name).table, len(blocks)))
    same_names(flat, [ours for ours, *_ in all_rules], f"the encoder, written as {name},")
    state = {}
    for ours, names, _, write in all_rules:
        arrays = np.split(write(flat[ours], channels), len(names))
        for their_name, array in zip(names, arrays, strict=True):
            state[their_name] = np.ascontiguousarray(array)
    return state
