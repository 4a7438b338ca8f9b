"""MAE: "Masked Autoencoders Are Scalable Vision Learners"
(He, Chen, Xie, Li, Dollar, Girshick; CVPR 2022; arXiv 2111.06377), figure 1.

Three quarters of the patches of an image are masked, and a ViT encodes the rest. A small decoder
gets the encoded patches and a learned mask token at each masked position, and predicts the masked
pixels. The loss is the squared error on the masked patches, each normalized by its own mean and
standard deviation.

Reference code: facebookresearch/mae models_mae.py. The initialization is the same: Xavier uniform
for every Dense layer and the patch embedding, N(0, .02) for class and mask token, fixed sine-cosine
positions in encoder and decoder. Biases and LayerNorms have no weight decay (`optim.no_decay`).
Difference: crops are resized bilinearly, not bicubically.
"""

from functools import partial
from typing import Annotated

import flax.linen as linen
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError, call_with_section, values
from jssl.config.values import Count, Part, Width
from jssl.core import DatasetInfo, Objective
from jssl.losses import masked_mse
from jssl.metrics import monitor_from_config
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.nn.positions import sincos
from jssl.nn.transformer import INITIALIZERS, BlockConfig, Blocks, check_width, layer_norm
from jssl.nn.vit_encoder import ViT
from jssl.ops import normalize_patches, patchify
from jssl.transforms.masking import random_masking

KEYS = {
    "mask_ratio": Annotated[Part, "share of the patches that are masked"],
    "norm_pix": Annotated[bool, "predict each patch normalized by its own mean and deviation"],
}


class Decoder(linen.Module):
    """(tokens [B, 1 + K, D] of the kept patches, restore [B, N]) -> pixels [B, N, p * p * C]."""

    dim: int
    depth: int
    heads: int
    pixels: int
    remat: str
    scan: bool
    attention: str
    eps: float
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @linen.compact
    def __call__(self, tokens: Array, restore: Array, train: bool) -> Array:
        batch_size, num_patches = restore.shape
        dense = partial(linen.Dense, kernel_init=INITIALIZERS["xavier"], dtype=self.dtype)
        token = self.param("mask_token", linen.initializers.normal(0.02), (1, 1, self.dim))
        x = dense(self.dim, name="embed")(tokens)
        kept = x[:, 1:]
        num_masked = num_patches - kept.shape[1]
        hidden = jnp.broadcast_to(token.astype(x.dtype), (batch_size, num_masked, self.dim))
        patches = jnp.concatenate([kept, hidden], axis=1)
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = x + sincos(self.dim, round(num_patches**0.5), True).astype(x.dtype)
        x = Blocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            hidden=4 * self.dim,
            drop_path=0.0,
            remat=self.remat,
            scan=self.scan,
            attention=self.attention,
            initializer=INITIALIZERS["xavier"],
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            style=BlockConfig(eps=self.eps),
            name="blocks",
        )(x, train)
        x = layer_norm(epsilon=self.eps, dtype=self.dtype, name="norm")(x)
        return dense(self.pixels, name="pred")(x)[:, 1:].astype(jnp.float32)


def decoder(*, dim: Width, depth: Count, heads: Count, pixels: int, encoder: ViT) -> Decoder:
    """The decoder from ``config.decoder``; the paper's is 512 wide, 8 deep, 16 heads.

    It is computed (remat, scan, attention, epsilon, dtype) as the encoder is.

    Args:
      dim: width of the decoder, a multiple of 4.
      depth: number of transformer blocks of the decoder.
      heads: attention heads of each block; their number divides dim.
      pixels: number of values of a patch: pixels times channels.
      encoder: the encoder.
    """
    check_width("decoder", dim, depth, heads)
    return Decoder(
        dim=dim,
        depth=depth,
        heads=heads,
        pixels=pixels,
        remat=encoder.remat,
        scan=encoder.scan,
        attention=encoder.attention,
        eps=encoder.style.eps,
        dtype=encoder.dtype,
        residual_dtype=encoder.residual_dtype,
    )


SECTIONS = {"decoder": values.documented_kinds(decoder)}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    if not encoder.class_token:
        raise ConfigError(
            "config.model.class_token", False, "MAE has a class token", "set it to True"
        )
    num_patches = masked_image.grid_side(config, encoder) ** 2
    head = call_with_section(
        decoder,
        config.decoder,
        "decoder",
        pixels=masked_image.patch_pixels(config, encoder),
        encoder=encoder,
    )
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_encoder, rng_decoder, rng_mask = jax.random.split(rng, 3)
        images = view(batch)
        keep_ids, _, restore = random_masking(rng_mask, len(images), num_patches, config.mask_ratio)
        encoder_params, _ = init(encoder, rng_encoder, images, keep_ids=keep_ids)
        tokens, _ = apply(encoder, encoder_params, {}, images, train=False, keep_ids=keep_ids)
        tokens = masked_image.without_registers(encoder, tokens)
        decoder_params, _ = init(head, rng_decoder, tokens, restore)
        return {"encoder": encoder_params, "decoder": decoder_params}, {}

    def predict(params, images, rng, train):
        rng_mask, rng_net = jax.random.split(rng)
        keep_ids, mask, restore = random_masking(
            rng_mask, len(images), num_patches, config.mask_ratio
        )
        rngs = {"drop_path": rng_net} if train else None
        tokens, _ = apply(
            encoder, params["encoder"], {}, images, train=train, keep_ids=keep_ids, rngs=rngs
        )
        decoded = masked_image.without_registers(encoder, tokens)
        prediction, _ = apply(head, params["decoder"], {}, decoded, restore, train=train)
        return prediction, mask, tokens

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = train_view(rng_view, batch)
        prediction, mask, tokens = predict(params, images, rng_net, train=True)
        target = patchify(images, encoder.patch)
        if config.norm_pix:
            target, _, _ = normalize_patches(target)
        metrics = monitor(state.step, encoder.features(tokens))
        return masked_mse(prediction, target, mask), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        prediction, mask, _ = predict(params, images, rng, train=False)
        patches = patchify(images, encoder.patch)
        if config.norm_pix:  # the prediction lacks mean and deviation of a patch: use the true ones
            _, mean, deviation = normalize_patches(patches)
            prediction = prediction * deviation + mean
        picture = masked_image.reconstruction_panel(config, encoder, patches, mask, prediction)
        return {"masked": picture}

    return Objective(init_params, loss, embed, render)
