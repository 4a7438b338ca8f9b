"""Vision Transformer (Dosovitskiy et al., 2021, arXiv:2010.11929), and MAE's encoder on top of it.

He et al., 2022 (arXiv:2111.06377); reference: facebookresearch/mae models_mae.py. Names map to
timm's: cls_token, pos_embed, blocks/0/..., norm; "patch_embed/kernel" [p * p * C, D] is timm's
"patch_embed.proj.weight" [D, C, p, p] with its pixels in order (row, column, channel).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import ConfigError
from jssl.config.values import Pixels, Rate
from jssl.nn import check_choice
from jssl.nn.attention import ATTENTION
from jssl.nn.products import Dense
from jssl.nn.transformer import INITIALIZERS, REMAT, Blocks, layer_norm, residual
from jssl.ops import patchify

SIZES = {  # dim, depth, heads: arXiv:2010.11929, table 1; Ti and S: DeiT, arXiv:2012.12877, table 1
    "vit_test": (32, 2, 2),
    "vit_micro": (128, 6, 4),  # not published: for small machines
    "vit_ti": (192, 12, 3),
    "vit_s": (384, 12, 6),
    "vit_b": (768, 12, 12),
    "vit_l": (1024, 24, 16),
    "vit_h": (1280, 32, 16),
}
PATCH_INITIALIZERS = {
    "xavier": nn.initializers.xavier_uniform(),  # over the flattened kernel: MAE
    # U(+-1/sqrt(fan_in)): timm's init_weights leaves the convolution at PyTorch's default.
    "trunc02": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "normal02": INITIALIZERS["normal02"],  # I-JEPA: only Linear layers are drawn again (helper.py)
    "beit": INITIALIZERS["beit"],
}
BRANCH_ENDS = (("proj", "kernel"), ("fc2", "kernel"))


class ViT(nn.Module):
    """``net(images [B, H, W, C], train) -> tokens [B, 1 + N, D]``, normalized.

    Patch n is at row n // grid and column n % grid. The leading token is the class token; it exists
    if `class_token`. `features(tokens)` pools to float32 [B, D].

    Keyword arguments of the call:
      keep_ids: int32 [B, K], the patches to encode; the tokens are then [B, 1 + K, D], in that
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
    pool: str
    positions: str
    drop_path: float
    remat: str
    scan: bool
    attention: str
    init_name: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

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
            valid = jnp.pad(valid, ((0, 0), (int(self.class_token), 0)), constant_values=True)
            attention_mask = valid[:, None, None]
        x = Blocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            mlp_ratio=4.0,
            drop_path=self.drop_path,
            remat=self.remat,
            scan=self.scan,
            attention=self.attention,
            initializer=INITIALIZERS[self.init_name],
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            name="blocks",
        )(x, train, attention_mask)
        return layer_norm(dtype=self.dtype, name="norm")(x)

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
        """The input of the transformer, [B, 1 + N, D]: embedded patches, positions, class token.

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
        table = self.position_table(patches.shape[1])
        positions = table[None, -patches.shape[1] :]
        # MAE gathers after adding positions. Each patch is embedded separately, so gathering first
        # gives the same tokens, for a quarter of the work and without a scatter in the gradient.
        if keep_ids is not None:
            patches = jnp.take_along_axis(patches, keep_ids[..., None], axis=1)
            positions = positions[0][keep_ids]
        kernel_init = PATCH_INITIALIZERS[self.init_name]
        project = Dense(self.dim, kernel_init=kernel_init, dtype=self.dtype, name="patch_embed")
        x = project(patches)
        if mask is not None:
            assert mask_token is not None, "a mask needs a mask token"
            x = jnp.where(mask[..., None], mask_token.astype(x.dtype), x)
        x = (x + positions).astype(self.residual_dtype)
        if not self.class_token:
            return x
        token = self.param("cls_token", draw_token(self.init_name), (1, 1, self.dim))
        first = (token + table[None, :1]).astype(self.residual_dtype)
        return jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.dim)), x], axis=1)

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
        """Pools tokens [B, 1 + N, D] to float32 [B, D].

        `pool` "cls" is the class token. "mean" is the mean of the patch tokens, as MAE's
        models_vit.py with global_pool, except that the last LayerNorm comes before the mean, not
        after it.
        """
        tokens = tokens.astype(jnp.float32)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, self.class_token :].mean(axis=1)


def draw_token(name: str) -> Callable:
    """The initializer of tokens and learned positions for a `ViT.init_name`.

    It is N(0, .02), cut for "beit".
    """
    return INITIALIZERS["beit" if name == "beit" else "normal02"]


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


def build(
    *,
    name: str,
    patch: Pixels,
    image_size: Pixels,
    class_token: bool,
    pool: str,
    positions: str,
    drop_path: Rate,
    remat: str,
    scan: bool,
    attention: str,
    init: str,
    dtype: str,
    residual_dtype: str,
) -> ViT:
    """A ViT from a config's `model` section.

    Args:
      name: network: vit_micro, vit_ti, vit_s, vit_b, vit_l or vit_h. vit_micro is for small
        machines; vit_test is for tests.
      patch: side of a patch, in pixels.
      image_size: side of the images for which there are positions, in pixels. "learned" positions
        are resized for other sizes.
      class_token: the first token is a learned class token.
      pool: features of an image: "cls", the class token, or "mean" of the patch tokens. See
        `ViT.features`.
      positions: position embeddings: "sincos" (fixed) or "learned". "sincos" is MAE's; "learned"
        is timm's, drawn from N(0, .02).
      drop_path: rate of stochastic depth of the last block; it grows from 0 at the first. See
        `jssl.nn.transformer.Blocks`.
      remat: recomputed in the backward pass: "none", "full" (blocks), "dots" (all but Dense). See
        `jssl.nn.transformer.REMAT`.
      scan: compile one block and run it for all layers by lax.scan. It compiles faster and moves
        more bytes (benchmarks/NOTES.md). See `jssl.nn.transformer.Blocks`.
      attention: kernel: "xla", "recompute", "cudnn", or "auto", which chooses by device. See
        `jssl.nn.attention`.
      init: initial weights: "xavier" (MAE), "trunc02" (timm), "normal02" (I-JEPA), "beit".
        "normal02" is N(0, .02), patches too. "beit" (BEiT, data2vec, SimMIM) is as "normal02", but
        cut at .02, and smaller in the last layers of the branches of deep blocks (`ViT.finish`).
        Biases start at zero.
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      residual_dtype: dtype of the residual stream, "float32" or "bfloat16". See
        `jssl.nn.transformer.residual`.

    Raises:
      UserError: any other choice, a patch that does not divide the image size, or pool "cls"
        without a class token.
    """
    dim, depth, heads = SIZES[check_choice("name", name, SIZES)]
    check(patch, image_size, class_token, check_choice("pool", pool, ("cls", "mean")), drop_path)
    return ViT(
        dim=dim,
        depth=depth,
        heads=heads,
        patch=patch,
        image_size=image_size,
        class_token=class_token,
        pool=pool,
        positions=check_choice("positions", positions, ("sincos", "learned")),
        drop_path=drop_path,
        remat=check_choice("remat", remat, REMAT),
        scan=scan,
        attention=check_choice("attention", attention, ATTENTION),
        init_name=check_choice("init", init, INITIALIZERS),
        dtype=jnp.dtype(check_choice("dtype", dtype, ("float32", "bfloat16"))),
        residual_dtype=residual(residual_dtype, dtype),
    )


def check(patch: int, image_size: int, class_token: bool, pool: str, drop_path: float) -> None:
    """Raises `UserError` for values out of range, and for values that contradict each other."""
    if patch < 1 or image_size < patch:
        raise ConfigError(
            "config.model.patch",
            patch,
            f"must be 1 to --config.model.image_size={image_size}",
            "try 16",
        )
    if image_size % patch:
        below = image_size // patch * patch
        sizes = f"{below} or {below + patch}"
        raise ConfigError(
            "config.model.patch",
            patch,
            f"does not divide --config.model.image_size={image_size}",
            f"try {sizes}",
        )
    if pool == "cls" and not class_token:
        raise ConfigError(
            "config.model.pool",
            "cls",
            "needs --config.model.class_token=True",
            "set it, or use pool='mean'",
        )
    if not 0 <= drop_path < 1:
        raise ConfigError(
            "config.model.drop_path", drop_path, "must be at least 0 and below 1", "try 0.1"
        )
