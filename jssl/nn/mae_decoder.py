"""The decoder of MAE (arXiv 2111.06377): a narrow transformer over all patches, visible and masked.

Reference code: facebookresearch/mae models_mae.py `forward_decoder`.
"""

from functools import partial

import flax.linen as linen
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, call_with_section, values
from jssl.config.values import Count, Width
from jssl.nn.positions import sincos
from jssl.nn.transformer import INITIALIZERS, BlockConfig, Blocks, check_width, layer_norm
from jssl.nn.vit_encoder import ViT


class Decoder(linen.Module):
    """(tokens [B, 1 + K, D] of the kept patches, restore [B, N]) -> float32 [B, N, outputs]."""

    dim: int
    depth: int
    heads: int
    outputs: int
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
        return dense(self.outputs, name="pred")(x)[:, 1:].astype(jnp.float32)


def decoder(*, dim: Width, depth: Count, heads: Count, outputs: int, encoder: ViT) -> Decoder:
    """The decoder from ``config.decoder``; the paper's is 512 wide, 8 deep, 16 heads.

    It is computed (remat, scan, attention, epsilon, dtype) as the encoder is.

    Args:
      dim: width of the decoder, a multiple of 4.
      depth: number of transformer blocks of the decoder.
      heads: attention heads of each block; their number divides dim.
      outputs: number of values that it predicts of a patch.
      encoder: the encoder.
    """
    check_width("decoder", dim, depth, heads)
    return Decoder(
        dim=dim,
        depth=depth,
        heads=heads,
        outputs=outputs,
        remat=encoder.remat,
        scan=encoder.scan,
        attention=encoder.attention,
        eps=encoder.style.eps,
        dtype=encoder.dtype,
        residual_dtype=encoder.residual_dtype,
    )


def from_config(config: Config, encoder: ViT, outputs: int, section: str = "decoder") -> Decoder:
    """The decoder from a section of the config; see `decoder`."""
    return call_with_section(decoder, config[section], section, outputs=outputs, encoder=encoder)


SECTIONS = {"decoder": values.documented_kinds(decoder)}
