"""MAE: "Masked Autoencoders Are Scalable Vision Learners"
(He, Chen, Xie, Li, Dollar, Girshick; CVPR 2022; arXiv 2111.06377), figure 1.

Hide three quarters of the patches of an image; encode the rest with a ViT; a small decoder, given
the encoded patches and a learned mask token at each hidden place, predicts the hidden pixels. The
loss is the squared error on the hidden patches, each normalised by its own mean and deviation.

Reference code: facebookresearch/mae models_mae.py. Initialisation is its own: Xavier uniform for
every Dense layer and the patch embedding, N(0, .02) for class and mask token, fixed sine-cosine
positions in both halves. Weight decay spares biases and LayerNorms (`optim.exclude`). Differences:
crops are resized bilinearly, not bicubically.
"""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config, UserError, call_with_section
from jssl.config.values import Count, Part, Width
from jssl.core import DatasetInfo, Objective
from jssl.losses import masked_mse
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.nn.transformer import INITIALIZERS, Blocks, check_width, layer_norm
from jssl.nn.vit import sincos
from jssl.ops import patchify
from jssl.transforms.masking import random_masking

KEYS = {
    "mask_ratio": Part,
    "norm_pix": bool,
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
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @linen.compact
    def __call__(self, tokens, restore, train):
        b, n = restore.shape
        dense = partial(linen.Dense, kernel_init=INITIALIZERS["xavier"], dtype=self.dtype)
        token = self.param("mask_token", linen.initializers.normal(0.02), (1, 1, self.dim))
        x = dense(self.dim, name="embed")(tokens)
        kept = x[:, 1:]
        hidden = jnp.broadcast_to(token.astype(x.dtype), (b, n - kept.shape[1], self.dim))
        patches = jnp.concatenate([kept, hidden], axis=1)
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = x + sincos(self.dim, round(n**0.5), True).astype(x.dtype)
        x = Blocks(
            depth=self.depth, dim=self.dim, heads=self.heads, mlp_ratio=4.0, drop_path=0.0,
            remat=self.remat, scan=self.scan, attention=self.attention,
            initializer=INITIALIZERS["xavier"], dtype=self.dtype,
            residual_dtype=self.residual_dtype, name="blocks",
        )(x, train)  # fmt: skip
        x = layer_norm(dtype=self.dtype, name="norm")(x)
        return dense(self.pixels, name="pred")(x)[:, 1:].astype(jnp.float32)


def decoder(*, dim: Width, depth: Count, heads: Count, pixels: int, like) -> Decoder:
    """The decoder from ``config.decoder``; the paper's is 512 wide, 8 deep, 16 heads. How it is
    computed (remat, scan, attention, dtype) is as in the encoder, `like`."""
    check_width("decoder", dim, depth, heads)
    how = (like.remat, like.scan, like.attention, like.dtype, like.residual_dtype)
    return Decoder(dim, depth, heads, pixels, *how)


def normalise(patches):
    """Each patch by its own mean and variance (section 4.2; models_mae.py `norm_pix_loss`, whose
    torch.var divides by n - 1): (normalised, mean, deviation)."""
    mean, var = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    deviation = jnp.sqrt(var + 1e-6)
    return (patches - mean) / deviation, mean, deviation


def build(config: Config, data_info: DatasetInfo) -> Objective:
    one, watch = masked_image.Setup(config), metrics.watcher(config)
    encoder, patch, ratio = one.encoder, one.encoder.patch, config.mask_ratio
    head = call_with_section(decoder, config.decoder, "decoder", pixels=one.pixels, like=encoder)
    if not (0 < ratio < 1 and encoder.class_token):
        raise UserError(f"mask_ratio={ratio} must be in (0, 1), and model.class_token true")

    def start(rng, batch):
        rng_f, rng_g, rng_mask = jax.random.split(rng, 3)
        images = one.centre(batch)
        keep, _, restore = random_masking(rng_mask, len(images), one.grid**2, ratio)
        f, _ = init(encoder, rng_f, images, keep=keep)
        tokens, _ = apply(encoder, f, {}, images, train=False, keep=keep)
        g, _ = init(head, rng_g, tokens, restore)
        return {"encoder": f, "decoder": g}, {}

    def predict(params, images, rng, train):
        rng_mask, rng_net = jax.random.split(rng)
        keep, mask, restore = random_masking(rng_mask, len(images), one.grid**2, ratio)
        rngs = {"drop_path": rng_net} if train else None
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=train, keep=keep, rngs=rngs)
        prediction, _ = apply(head, params["decoder"], {}, tokens, restore, train=train)
        return prediction, mask, tokens

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = one.view(rng_view, batch["image"], batch["size"])
        prediction, mask, tokens = predict(params, images, rng_net, train=True)
        target = patchify(images, patch)
        target = normalise(target)[0] if config.norm_pix else target
        metrics = watch(state.step, encoder.features(tokens))
        return masked_mse(prediction, target, mask), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return one.embed(params, batch)

    def render(params, buffers, batch, rng):
        """original | masked | reconstruction (visible patches as they are), side by side."""
        images = one.centre(batch)
        prediction, mask, _ = predict(params, images, rng, train=False)
        patches = patchify(images, patch)
        if config.norm_pix:  # the prediction lacks each patch's mean and deviation: lend the true
            _, mean, deviation = normalise(patches)
            prediction = prediction * deviation + mean
        return {"masked": one.picture(patches, mask, prediction)}

    return Objective(start, loss, embed, render)
