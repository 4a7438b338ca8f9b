"""Vision Transformer (Dosovitskiy et al., 2021, arXiv:2010.11929), and MAE's encoder on top of it.

He et al., 2022 (arXiv:2111.06377); reference: facebookresearch/mae models_mae.py. Names map to
timm's: cls_token, pos_embed, blocks/0/..., norm; "patch_embed/kernel" [p * p * C, D] is timm's
"patch_embed.proj.weight" [D, C, p, p] with its pixels in order (row, column, channel).

Options of DINOv2 (Oquab et al., 2023, arXiv:2304.07193) and DINOv3 (Simeoni et al., 2025,
arXiv:2508.10104): register tokens (Darcet et al., 2024, arXiv:2309.16588), rotary positions, layer
scale, SwiGLU, no bias of keys.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import ConfigError
from jssl.nn.positions import patch_angles, resized, sincos
from jssl.nn.products import Dense
from jssl.nn.transformer import (
    INITIALIZERS,
    BlockConfig,
    Blocks,
)
from jssl.ops import patchify

PATCH_INITIALIZERS = {
    "xavier": nn.initializers.xavier_uniform(),  # over the flattened kernel: MAE
    # U(+-1/sqrt(fan_in)): timm's init_weights leaves the convolution at PyTorch's default.
    "trunc02": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "normal02": INITIALIZERS["normal02"],  # I-JEPA: only Linear layers are drawn again (helper.py)
    "beit": INITIALIZERS["beit"],
}
BRANCH_ENDS = (("proj", "kernel"), ("fc2", "kernel"))


class ViT(nn.Module):
    """``net(images [B, H, W, C], train) -> tokens [B, P + N, D]``, normalized.

    Patch n is at row n // grid and column n % grid. The P = `num_prefix` leading tokens are the
    class token, if `class_token`, and the registers. `features(tokens)` pools to float32 [B, D].

    Keyword arguments of the call:
      keep_ids: int32 [B, K], the patches to encode; the tokens are then [B, P + K, D], in that
        order.
      valid: bool [B, K], False for a padding token, to which no other token attends.
      mask, mask_token: bool [B, N] and [D]. The token replaces each masked patch, before positions
        are added.
    """

    dim: int
    depth: int
    heads: int
    patch: int
    image_size: int
    class_token: bool
    registers: int
    pool: str
    positions: str
    rope_rescale: float
    mlp_width: int
    style: BlockConfig
    drop_path: float
    remat: str
    scan: bool
    attention: str
    init_name: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @property
    def num_prefix(self) -> int:
        """The number of tokens before the patches."""
        return self.class_token + self.registers

    @nn.compact
    def __call__(
        self,
        images: Array,
        train: bool,
        keep_ids: Array | None = None,
        valid: Array | None = None,
        mask: Array | None = None,
        mask_token: Array | None = None,
    ) -> Array:
        x = self.embed(images, keep_ids, mask, mask_token)
        attention_mask = None
        if valid is not None:
            valid = jnp.pad(valid, ((0, 0), (self.num_prefix, 0)), constant_values=True)
            attention_mask = valid[:, None, None]
        angles = None
        if self.positions == "rotary":
            angles = self.angles(images.shape[1] // self.patch, keep_ids, train)
        x = Blocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            hidden=self.mlp_width,
            drop_path=self.drop_path,
            remat=self.remat,
            scan=self.scan,
            attention=self.attention,
            initializer=INITIALIZERS[self.init_name],
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            style=self.style,
            name="blocks",
        )(x, train, attention_mask, angles=angles)
        return nn.LayerNorm(epsilon=self.style.eps, dtype=self.dtype, name="norm")(x)

    def finish(self, params: dict[str, Any]) -> dict[str, Any]:
        """Drawn parameters -> initial parameters (`jssl.nn.apply.init`).

        "beit" divides the last layer of each branch of block l, counted from 1, by sqrt(2 l)
        (beit/modeling_pretrain.py, fix_init_weight).
        """
        if self.init_name != "beit":
            return params
        scale = 1 / np.sqrt(2.0 * np.arange(1, self.depth + 1, dtype=np.float32))

        def rescale(path, leaf):
            names = [key.key for key in path]
            if names[0] != "blocks" or tuple(names[-2:]) not in BRANCH_ENDS:
                return leaf
            if names[1] == "layers":  # scanned: [depth, ...]
                return leaf * scale[:, None, None]
            return leaf * scale[int(names[1])]

        return jax.tree_util.tree_map_with_path(rescale, params)

    def embed(
        self,
        images: Array,
        keep_ids: Array | None,
        mask: Array | None,
        mask_token: Array | None,
    ) -> Array:
        """The input of the transformer, [B, P + N, D]: prefix, embedded patches with positions.

        Raises:
          UserError: the patches do not tile the images, or there are no positions for their size.
        """
        height, width = images.shape[1:3]
        if height != width or height % self.patch:
            raise ConfigError(
                "config.model.patch",
                self.patch,
                f"does not divide images of {height}x{width}",
                "use square images whose side is a multiple of it",
            )
        if height != self.image_size and self.positions == "sincos":
            raise ConfigError(
                "config.model.image_size",
                self.image_size,
                f"the images are {height}x{width}, and 'sincos' has no positions for them",
                "use --config.model.positions='learned', which are resized",
            )
        patches = patchify(images, self.patch)
        num_patches = patches.shape[1]
        table = None if self.positions == "rotary" else self.position_table(num_patches)
        # MAE gathers after adding positions. Each patch is embedded separately, so gathering first
        # gives the same tokens, for a quarter of the work and without a scatter in the gradient.
        if keep_ids is not None:
            patches = jnp.take_along_axis(patches, keep_ids[..., None], axis=1)
        kernel_init = PATCH_INITIALIZERS[self.init_name]
        project = Dense(self.dim, kernel_init=kernel_init, dtype=self.dtype, name="patch_embed")
        x = project(patches)
        if mask is not None:
            assert mask_token is not None, "a mask needs a mask token"
            x = jnp.where(mask[..., None], mask_token.astype(x.dtype), x)
        if table is not None:
            positions = table[None, -num_patches:]
            x = x + (positions if keep_ids is None else positions[0][keep_ids])
        x = x.astype(self.residual_dtype)
        prefix = self.prefix(table).astype(self.residual_dtype)
        prefix = jnp.broadcast_to(prefix, (x.shape[0], self.num_prefix, self.dim))
        return jnp.concatenate([prefix, x], axis=1) if self.num_prefix else x

    def prefix(self, table: Array | None) -> Array:
        """The class token with its position, then the registers: [1, P, D]."""
        draw = draw_token(self.init_name)
        tokens = []
        if self.class_token:
            token = self.param("cls_token", draw, (1, 1, self.dim))
            tokens.append(token if table is None else token + table[None, :1])
        if self.registers:
            tokens.append(self.param("reg_token", draw, (1, self.registers, self.dim)))
        return jnp.concatenate([jnp.zeros((1, 0, self.dim)), *tokens], axis=1)

    def angles(self, side: int, keep_ids: Array | None, train: bool) -> Array:
        """The rotations of all tokens, float32 [B or 1, P + N, D / heads / 2]; 0 for the prefix.

        A training pass with random numbers multiplies the coordinates of all patches by a factor
        from 1 / `rope_rescale` to `rope_rescale`, uniform in its logarithm.
        """
        scale: Array | float = 1.0
        if train and self.rope_rescale > 1 and self.has_rng("drop_path"):
            log = float(np.log(self.rope_rescale))
            rng = self.make_rng("drop_path")
            scale = jnp.exp(jax.random.uniform(rng, minval=-log, maxval=log))
        angles = patch_angles(side, self.dim // self.heads, scale)
        angles = angles[None] if keep_ids is None else angles[keep_ids]
        return jnp.pad(angles, ((0, 0), (self.num_prefix, 0), (0, 0)))

    def position_table(self, patches: int) -> Array:
        """The positions, float32 [1 + patches, D]; the first row is the class token's, if any."""
        side = round(patches**0.5)
        grid = self.image_size // self.patch
        if self.positions == "sincos":
            return jnp.asarray(sincos(self.dim, side, self.class_token))
        shape = (1, grid * grid + self.class_token, self.dim)
        table = self.param("pos_embed", draw_token(self.init_name), shape)[0]
        if side == grid:
            return table
        # Smaller crops get the same table, resized.
        of_patches = table[self.class_token :].reshape(grid, grid, self.dim)
        of_patches = resized(of_patches, side).reshape(-1, self.dim)
        return jnp.concatenate([table[: self.class_token], of_patches])

    def features(self, tokens: Array) -> Array:
        """Pools tokens [B, P + N, D] to float32 [B, D].

        `pool` "cls" is the class token. "mean" is the mean of the patch tokens, as MAE's
        models_vit.py with global_pool, except that the last LayerNorm comes before the mean, not
        after it.
        """
        tokens = tokens.astype(jnp.float32)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, self.num_prefix :].mean(axis=1)


def draw_token(name: str) -> Callable:
    """The initializer of tokens and learned positions for a `ViT.init_name`.

    It is N(0, .02), cut for "beit".
    """
    return INITIALIZERS["beit" if name == "beit" else "normal02"]
