"""Where the last block of a ViT looks: the attention of its class token, for a few images.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021 (arXiv:2104.14294,
figure 1), visualize_attention.py of facebookresearch/dino. Without a class token it is the mean
over the patches as queries.
"""

from typing import Any

import flax.linen as flax_nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl import nn
from jssl.core import TrainState
from jssl.nn.positions import apply_rotary
from jssl.nn.transformer import Attention, unstack
from jssl.nn.vit_encoder import ViT
from jssl.reports.examples import EmbeddedRows
from jssl.reports.thumbnails import image_uri
from jssl.training.setup import Run
from jssl.transforms.views import eval_view

IMAGES = 6
HEADS = 6  # heads shown beside their mean
SIDE = 112  # pixels of a map


def vit_of(run: Run) -> ViT | None:
    """Returns the encoder of a run if it is a ViT, without scan and rematerialization."""
    if run.data.source.modality != "image":
        return None
    encoder = nn.encoder(run.config.model)
    if not isinstance(encoder, ViT):
        return None
    return encoder.clone(scan=False, remat="none", attention="xla")


def weights(encoder: ViT, params: dict[str, Any], images: Array) -> Array:
    """Returns the attention over the patches, float32 [B, heads, side, side], with sum 1 over all
    tokens.

    Args:
      encoder: a ViT without scan.
      params: its parameters, not stacked.
      images: [B, H, W, C].
    """
    calls: list[tuple[Any, Any]] = []  # (the output of qkv, the rotation) of each block
    rotations: list[Any] = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, Attention):
            rotations.append(args[3] if len(args) > 3 else kwargs.get("angles"))
        output = call(*args, **kwargs)
        if context.module.name == "qkv":
            calls.append((output, rotations[-1]))
        return output

    with flax_nn.intercept_methods(watch):
        encoder.apply({"params": params}, images, train=False)
    qkv, angles = calls[-1]
    last = params["blocks"][str(encoder.depth - 1)]["attn"]
    batch, tokens, width = qkv.shape
    qkv = qkv.reshape(batch, tokens, 3, encoder.heads, width // (3 * encoder.heads))
    q = qkv[:, :, 0]
    if "q_bias" in last:
        q = q + last["q_bias"].reshape(q.shape[2:]).astype(q.dtype)
    k = qkv[:, :, 1]
    if angles is not None:
        q = apply_rotary(q, angles)
        k = apply_rotary(k, angles)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q.astype(jnp.float32), k.astype(jnp.float32))
    attention = jax.nn.softmax(logits * q.shape[-1] ** -0.5)
    first = encoder.num_prefix
    row = attention[:, :, 0] if encoder.class_token else attention[:, :, first:].mean(axis=2)
    side = round((tokens - first) ** 0.5)
    return row[:, :, first:].reshape(batch, encoder.heads, side, side)


def pictures(run: Run, state: TrainState, rows: EmbeddedRows) -> list[dict[str, Any]]:
    """Returns {"image": data URI, "mean": data URI, "heads": [data URI]} of a few examples; [] if
    the encoder is no ViT."""
    encoder = vit_of(run)
    if encoder is None:
        return []
    chosen = rows.rows[np.linspace(0, len(rows.rows) - 1, min(IMAGES, len(rows.rows))).astype(int)]
    batch = rows.source.read(chosen)
    batch.pop("damaged")
    params: Any = dict(state.params["encoder"])
    if run.config.model.scan:
        params["blocks"] = unstack(params["blocks"])
    view = eval_view(run.config)

    @jax.jit
    def compute(params, batch):
        images = view(batch)
        return images.astype(jnp.float32), weights(encoder, params, images)

    images, attention = (np.asarray(x) for x in compute(params, batch))
    augment = run.config.augment
    made = []
    for image, maps, row in zip(images, attention, chosen.tolist(), strict=True):
        plain = np.clip(image * np.array(augment.std) + np.array(augment.mean), 0, 1)
        picture = (plain * 255 + 0.5).astype(np.uint8)
        made.append(
            {
                "name": rows.source.describe(row),
                "image": image_uri(picture, SIDE),
                "mean": heat_uri(maps.mean(axis=0)),
                "heads": [heat_uri(head) for head in maps[:HEADS]],
            }
        )
    return made


def heat_uri(weights: np.ndarray) -> str:
    """Returns weights float [side, side] as a picture: black is the least, yellow the largest."""
    low = weights.min()
    scale = (weights - low) / max(float(weights.max() - low), 1e-12)
    stops = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
    at = np.linspace(0, 1, len(stops))
    colors = [np.interp(scale, at, stops[:, channel]) for channel in range(3)]
    return image_uri(np.stack(colors, axis=-1).astype(np.uint8), SIDE)
