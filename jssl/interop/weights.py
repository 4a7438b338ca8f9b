"""Weights by the names of timm's VisionTransformer and Hugging Face's BertModel and GPT2Model.

A state dict is {name: NumPy array}, as safetensors.numpy.load_file returns it; our side is the
`params["encoder"]` of `jssl.nn.vit` or `jssl.nn.text`. The arrays are the same numbers in another
order: nothing is cast, and from_state then to_state gives back what a model of that library has.
"""

import re
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jssl.config import UserError, suggest


class Layout(NamedTuple):
    """How one library names a model's tensors.

    table: lines of our name, their name, kind (see `KINDS`). "*" is the number of the layer, and
    theirs under "a|b" are joined along their first axis. prefix: what a model with a head, or
    DataParallel, puts before each name. left: what we have no place for and leave out (heads,
    masks, position ids). renamed: names of old.
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
    side = round((len(w) / channels) ** 0.5)
    if side * side * channels != len(w):
        raise UserError(f"channels={channels} do not make square patches of {len(w)} values")
    return w.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)


def same(w, channels):
    return w


def turned(w, channels):
    return w.T


BIAS = ("/bias", ".bias", same, same)
KINDS = {  # the tensors of a line: (end of our name, end of theirs, theirs -> ours, ours -> theirs)
    "array": [("", "", same, same)],
    "norm": [("/scale", ".weight", same, same), BIAS],
    "dense": [("/kernel", ".weight", turned, turned), BIAS],  # PyTorch has [out, in]
    "conv1d": [("/kernel", ".weight", same, same), BIAS],  # GPT-2's, [in, out] as ours
    "patch": [("/kernel", ".weight", patch_in, patch_out), BIAS],
}


def rules(table: str, depth: int):
    """(our name, their names, theirs -> ours, ours -> theirs) of each of our tensors."""
    for line in table.strip().splitlines():
        ours, theirs, kind = line.split()
        stem, _, parts = theirs.rpartition(".")
        for i in range(depth) if "*" in ours else (0,):
            for our_end, their_end, read, write in KINDS[kind]:
                names = [f"{stem}.{part}".removeprefix(".") for part in parts.split("|")]
                names = [(name + their_end).replace("*", str(i)) for name in names]
                yield ours.replace("*", str(i)) + our_end, names, read, write


def layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise UserError(f"weights of {name!r} are not known; {suggest(name, LAYOUTS)}")
    return LAYOUTS[name]


def same_names(found, wanted, what: str):
    """`UserError` that names what is missing or too much."""
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    for names, why in ((missing, "lacks"), (extra, "has no place for")):
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise UserError(f"{what} {why} {names[0]!r}{more}")


def from_state(name: str, state: dict, scan: bool = False) -> dict:
    """The encoder's parameters from the state dict of a model of `LAYOUTS`.

    scan: stacked, for an encoder with `model.scan`. Raises `UserError` for a tensor that is missing
    or has no place.
    """
    table, prefix, left, renamed = layout(name)
    bare = {key.removeprefix(prefix): np.asarray(value) for key, value in state.items()}
    bare = {key: value for key, value in bare.items() if not re.match(left, key)}
    for old, new in renamed:
        bare = {key.replace(old, new): value for key, value in bare.items()}
    depth = len({number[1] for key in bare if (number := re.search(r"\.(\d+)\.", key))})
    todo = list(rules(table, depth))
    wanted = [key for _, names, *_ in todo for key in names]
    same_names(bare, wanted, f"the state dict, read as {name},")
    flat = {}
    for ours, names, read, _ in todo:
        whole = bare[names[0]] if len(names) == 1 else np.concatenate([bare[n] for n in names])
        flat[ours] = read(whole, None)
    params = unflatten_dict(flat, sep="/")
    if scan:
        layers = [params["blocks"][str(i)] for i in range(depth)]
        params["blocks"] = {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}
    return params


def to_state(name: str, params: dict, channels: int = 3) -> dict:
    """The inverse of `from_state`; parameters may be stacked or not. channels: of the images.

    A ViT with fixed positions has no "pos_embed" to give; the caller adds
    ``jssl.nn.vit.sincos(...)[None]``.
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
    todo = list(rules(layout(name).table, len(blocks)))
    same_names(flat, [ours for ours, *_ in todo], f"the encoder, written as {name},")
    state = {}
    for ours, names, _, write in todo:
        parts = np.split(write(flat[ours], channels), len(names))
        state |= {n: np.ascontiguousarray(part) for n, part in zip(names, parts, strict=True)}
    return state
