"""The transformer blocks of every family: ViT encoders, MAE decoders, and text by `BlockConfig`.

Source: Dosovitskiy et al., 2021 (arXiv:2010.11929, equations 1 to 4), in the form of `Block` in
timm's vision_transformer.py: pre-norm, biases in every layer, one Dense for q, k and v. Parameter
names map to timm's: "blocks/0/attn/qkv/kernel" is "blocks.0.attn.qkv.weight".
LayerNorm and softmax are computed in float32. The residual stream has a dtype of its own: torch's
autocast keeps it in float32 while the products are bfloat16.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import ConfigError
from jssl.nn.attention import attend
from jssl.nn.positions import apply_rotary
from jssl.nn.products import Dense
from jssl.parallel.mesh import shard_batch

INITIALIZERS = {
    # Over the joint [D, 3D] shape of qkv: facebookresearch/mae models_mae.py, _init_weights.
    "xavier": nn.initializers.xavier_uniform(),
    # timm's trunc_normal_(std=.02) cuts at +-2, a hundred deviations, so it is a plain normal.
    "trunc02": nn.initializers.normal(0.02),
    "normal02": nn.initializers.normal(0.02),  # I-JEPA; equal, except for the patches of a ViT
    # timm's trunc_normal_(std=.02, a=-.02, b=.02), of deviation .0108: microsoft/unilm beit
    # modeling_pretrain.py:21, facebookresearch/data2vec_vision, microsoft/SimMIM models/simmim.py.
    "beit": nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0),
}
REMAT = {
    "none": None,  # keep every activation
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only the inputs of the blocks
    # Keep the outputs of the Dense layers, recompute the [T, T] attention weights and the rest.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
FEED_FORWARD = ("gelu", "swiglu")
SCALES = ("attn_scale", "mlp_scale")  # names of layer scale; by "scale$" they have no weight decay
layer_norm = partial(nn.LayerNorm, epsilon=1e-6)


def residual(choice: str, dtype: str) -> jnp.dtype:
    """The dtype of the residual stream, from ``model.residual_dtype`` and ``model.dtype``.

    Raises:
      UserError: `choice` is not known, or less precise than `dtype`.
    """
    if choice not in ("float32", "bfloat16") or (choice == "bfloat16" and dtype == "float32"):
        raise ConfigError(
            "config.model.residual_dtype",
            choice,
            f"does not go with --config.model.dtype={dtype!r}",
            "use 'float32'",
        )
    return jnp.dtype(choice)


def check_width(section: str, dim: int, depth: int, heads: int) -> None:
    """Checks the sizes of blocks with sine-cosine positions, which need a multiple of 4 features.

    Raises:
      UserError: a size is wrong; the message names ``config.<section>``.
    """
    if depth < 1:
        raise ConfigError(f"config.{section}.depth", depth, "must be at least 1", "try 1")
    if dim < 4 or dim % 4:
        raise ConfigError(f"config.{section}.dim", dim, "must be a multiple of 4", "try 512")
    if heads < 1 or dim % heads:
        raise ConfigError(
            f"config.{section}.heads", heads, f"must divide config.{section}.dim={dim}", "try 4"
        )


class BlockConfig(NamedTuple):
    """The differences between the families. The defaults are those of ViT."""

    post_norm: bool = False  # norm(x + branch(x)), not x + branch(norm(x))
    tanh_gelu: bool = False  # GELU by its tanh approximation, not by erf
    eps: float = 1e-6  # of the LayerNorms in the blocks
    causal: bool = False  # a token attends to itself and to the tokens before it
    dropout: float = 0.0  # of the output of each branch; needs rngs={"dropout": key}
    last_init: Callable | None = None  # of the last Dense of a branch; None: as the others
    key_bias: bool = True  # False: only queries and values have a bias
    feed_forward: str = "gelu"  # a key of `FEED_FORWARD`
    layer_scale: float = 0.0  # first value of the factor of each branch and feature; 0: none


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D] -> [B, T, D] (arXiv:2010.11929, equations 5 to 8).

    mask, lengths: see `attend`. angles: float32 [B or 1, T, D / heads / 2], the rotation of queries
    and keys (`apply_rotary`).
    """

    heads: int
    attention: str
    initializer: Callable
    dtype: jnp.dtype
    style: BlockConfig = BlockConfig()

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array | None = None,
        lengths: Array | None = None,
        angles: Array | None = None,
    ) -> Array:
        b, t, d = x.shape
        dense = partial(Dense, kernel_init=self.initializer, dtype=self.dtype)
        qkv = dense(3 * d, use_bias=self.style.key_bias, name="qkv")(x)
        if not self.style.key_bias:
            zeros = nn.initializers.zeros
            q_bias = self.param("q_bias", zeros, (d,))
            v_bias = self.param("v_bias", zeros, (d,))
            bias = jnp.concatenate([q_bias, jnp.zeros(d), v_bias])
            qkv = qkv + bias.astype(qkv.dtype)
        qkv = qkv.reshape(b, t, 3, self.heads, d // self.heads)
        q = qkv[:, :, 0]
        k = qkv[:, :, 1]
        v = qkv[:, :, 2]
        if angles is not None:
            q = apply_rotary(q, angles)
            k = apply_rotary(k, angles)
        causal = self.style.causal
        y = attend(q, k, v, causal=causal, mask=mask, lengths=lengths, choice=self.attention)
        last = self.style.last_init or self.initializer
        return dense(d, kernel_init=last, name="proj")(y.reshape(b, t, d))


class FeedForward(nn.Module):
    """Dense, GELU, Dense: [B, T, D] -> [B, T, D].

    "swiglu" multiplies a second Dense, "gate" with SiLU, by the first one (Shazeer, 2020,
    arXiv:2002.05202, equation 6, with biases).
    """

    hidden: int
    initializer: Callable
    dtype: jnp.dtype
    style: BlockConfig = BlockConfig()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = partial(Dense, kernel_init=self.initializer, dtype=self.dtype)
        y = dense(self.hidden, name="fc1")(x)
        if self.style.feed_forward == "swiglu":
            y = nn.silu(dense(self.hidden, name="gate")(x)) * y
        else:
            y = nn.gelu(y, approximate=self.style.tanh_gelu)
        last = self.style.last_init or self.initializer
        return dense(x.shape[-1], kernel_init=last, name="fc2")(y)


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)): [B, T, D] -> [B, T, D]. With post-norm,
    norm1(x + attn(x)), then norm2(x + mlp(x)).

    The output has the dtype of `x`, the residual stream; the branches are computed in `dtype`.
    `scale` [B, 2] float32 multiplies the two branches of each example (see `branch_scales`); None
    is 1. mask, lengths, angles: see `Attention`. Layer scale: Touvron et al., 2021,
    arXiv:2103.17239, equation 5.
    """

    heads: int
    hidden: int
    attention: str
    initializer: Callable
    dtype: jnp.dtype
    style: BlockConfig = BlockConfig()

    @nn.compact
    def __call__(
        self,
        x: Array,
        scale: Array | None,
        mask: Array | None = None,
        lengths: Array | None = None,
        angles: Array | None = None,
    ) -> Array:
        style = self.style
        shared_fields = (self.initializer, self.dtype, style)
        attn = Attention(self.heads, self.attention, *shared_fields, name="attn")
        mlp = FeedForward(self.hidden, *shared_fields, name="mlp")
        norm_dtype = x.dtype if style.post_norm else self.dtype
        for i, branch in enumerate((lambda x: attn(x, mask, lengths, angles), mlp)):
            norm = nn.LayerNorm(epsilon=style.eps, dtype=norm_dtype, name=f"norm{i + 1}")
            y = branch(x if style.post_norm else norm(x))
            if style.layer_scale:
                start = nn.initializers.constant(style.layer_scale)
                y = y * self.param(SCALES[i], start, x.shape[-1:]).astype(y.dtype)
            y = nn.Dropout(style.dropout, deterministic=False)(y)
            y = y if scale is None else y * scale[:, i, None, None].astype(y.dtype)
            x = x + y.astype(x.dtype)
            x = norm(x) if style.post_norm else x
        return shard_batch(x)


class Blocks(nn.Module):
    """`depth` blocks, [B, T, D] -> [B, T, D], without the LayerNorm after the last block.

    The input is converted to `residual_dtype`, which is also the dtype of the output; `dtype` is
    that of the products. mask, lengths, angles: see `Attention`.

    Attributes:
      hidden: width of the layer between the two products of a feed-forward network.
      drop_path: the rate of stochastic depth (arXiv:1603.09382). Layer l of L drops each branch of
        each example with probability drop_path * l / (L - 1), timm's rule. A training pass then
        needs rngs={"drop_path": key}.
      remat: a key of `REMAT`. It does not change the outputs.
      scan: compile one block, and run it by `lax.scan` over parameters that are stacked as
        [depth, ...] under "layers". False: the parameters are under "0", "1", ... (see `stack`,
        `unstack`). It does not change the outputs, except for the dropout masks.
    """

    depth: int
    dim: int
    heads: int
    hidden: int
    drop_path: float
    remat: str
    scan: bool
    attention: str
    initializer: Callable
    dtype: jnp.dtype
    residual_dtype: jnp.dtype
    style: BlockConfig = BlockConfig()

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        mask: Array | None = None,
        lengths: Array | None = None,
        angles: Array | None = None,
    ) -> Array:
        x = x.astype(self.residual_dtype)
        scales = None
        if train and self.drop_path > 0:
            rng = self.make_rng("drop_path")
            scales = branch_scales(rng, x.shape[0], self.depth, self.drop_path)
        block = Block
        if self.remat != "none":  # under scan, XLA cannot merge the recomputation anyway
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not self.scan)
        style = self.style if train else self.style._replace(dropout=0.0)
        fields = (self.heads, self.hidden, self.attention, self.initializer, self.dtype, style)
        if not self.scan:
            for i in range(self.depth):
                scale = None if scales is None else scales[i]
                x = block(*fields, name=str(i))(x, scale, mask, lengths, angles)
            return x
        scanned = nn.scan(
            lambda layer, x, scale, *shared: (layer(x, scale, *shared), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            # Flax's hint of `in_axes` is `int`, its docstring allows a tuple.
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=self.depth,
        )
        return scanned(block(*fields, name="layers"), x, scales, mask, lengths, angles)[0]


def branch_scales(rng: Array, batch: int, depth: int, rate: float) -> Array:
    """Draws the factors of stochastic depth, float32 [depth, batch, 2].

    A factor is 0 where a branch is dropped, and 1 / (1 - its rate) where it is kept. The rate of
    layer l is rate * l / (depth - 1): timm's vision_transformer.py (linspace(0, rate)).
    """
    rates = jnp.linspace(0.0, rate, depth)
    kept = jax.random.uniform(rng, (batch, 2, depth)) >= rates
    return jnp.moveaxis(kept / (1 - rates), -1, 0)


def stack(layers: dict[str, Any]) -> dict[str, Any]:
    """Parameters of unrolled `Blocks`, {"0": ..., "1": ...} -> of scanned ones, {"layers": ...}."""
    trees = [layers[str(i)] for i in range(len(layers))]
    return {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)}


def unstack(layers: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `stack`."""
    depth = len(jax.tree.leaves(layers)[0])

    def pick(i):
        return jax.tree.map(lambda leaf: leaf[i], layers["layers"])

    return {str(i): pick(i) for i in range(depth)}
