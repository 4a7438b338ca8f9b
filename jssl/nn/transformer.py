"""The pre-norm transformer of ViT encoders and MAE decoders.

Dosovitskiy et al., 2021 (arXiv:2010.11929, equations 1 to 4), as timm's vision_transformer.py
`Block` has it: LayerNorm eps 1e-6, exact (erf) GELU, biases everywhere, one Dense for q, k and v.
Parameter names map to timm's: "blocks/0/attn/qkv/kernel" is "blocks.0.attn.qkv.weight".
LayerNorm and softmax are computed in float32; the residual stream has the compute dtype.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

INITIALIZERS = {
    # Over the joint [D, 3D] shape of qkv: facebookresearch/mae models_mae.py, _init_weights.
    "xavier": nn.initializers.xavier_uniform(),
    # timm's trunc_normal_(std=.02) cuts at +-2, a hundred deviations: in effect a plain normal.
    "trunc02": nn.initializers.normal(0.02),
}
ATTENTION = {"auto": None, "xla": "xla", "cudnn": "cudnn"}  # of jax.nn.dot_product_attention
REMAT = {
    "none": None,  # keep every activation
    "full": jax.checkpoint_policies.nothing_saveable,  # keep the blocks' inputs only
    # Keep the outputs of the Dense layers, recompute the [T, T] attention weights and the rest.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
layer_norm = partial(nn.LayerNorm, epsilon=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D] -> [B, T, D] (arXiv:2010.11929, equations 5 to 8).

    A causal mask and rotary positions belong between `qkv` and `dot_product_attention`.
    """

    heads: int
    attention: str
    initializer: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, t, d = x.shape
        dense = partial(nn.Dense, kernel_init=self.initializer, dtype=self.dtype)
        qkv = dense(3 * d, name="qkv")(x).reshape(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        y = jax.nn.dot_product_attention(q, k, v, implementation=ATTENTION[self.attention])
        return dense(d, name="proj")(y.reshape(b, t, d))


class FeedForward(nn.Module):
    """Dense, GELU, Dense: [B, T, D] -> [B, T, D]."""

    hidden: int
    initializer: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = partial(nn.Dense, kernel_init=self.initializer, dtype=self.dtype)
        y = nn.gelu(dense(self.hidden, name="fc1")(x), approximate=False)
        return dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)): [B, T, D] -> [B, T, D].

    `scale` [B, 2] float32 multiplies the two branches of each example (see `branch_scales`);
    None leaves them as they are.
    """

    heads: int
    hidden: int
    attention: str
    initializer: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, scale: Array | None) -> Array:
        attn = Attention(self.heads, self.attention, self.initializer, self.dtype, name="attn")
        mlp = FeedForward(self.hidden, self.initializer, self.dtype, name="mlp")
        for i, branch in enumerate((attn, mlp)):
            y = branch(layer_norm(dtype=self.dtype, name=f"norm{i + 1}")(x))
            x = x + (y if scale is None else y * scale[:, i, None, None].astype(y.dtype))
        return x


class Blocks(nn.Module):
    """`depth` blocks, [B, T, D] -> [B, T, D]; the last LayerNorm is the caller's.

    drop_path: stochastic depth (arXiv:1603.09382); layer l of L drops each branch of each example
      with probability drop_path * l / (L - 1), timm's rule. A training pass then needs
      rngs={"drop_path": key}.
    remat: a key of `REMAT`. scan: one compiled block, run by `lax.scan` over parameters stacked
      as [depth, ...] under "layers"; without, they lie under "0", "1", ... (see `stack`,
      `unstack`). Neither changes the outputs.
    """

    depth: int
    dim: int
    heads: int
    mlp_ratio: float
    drop_path: float
    remat: str
    scan: bool
    attention: str
    initializer: Callable
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        scales = None
        if train and self.drop_path > 0:
            rng = self.make_rng("drop_path")
            scales = branch_scales(rng, x.shape[0], self.depth, self.drop_path)
        block = Block
        if self.remat != "none":  # scan keeps XLA from merging the recomputation by itself
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not self.scan)
        hidden = int(self.dim * self.mlp_ratio)
        fields = (self.heads, hidden, self.attention, self.initializer, self.dtype)
        if not self.scan:
            for i in range(self.depth):
                x = block(*fields, name=str(i))(x, None if scales is None else scales[i])
            return x
        scanned = nn.scan(
            lambda layer, x, scale: (layer(x, scale), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        return scanned(block(*fields, name="layers"), x, scales)[0]


def branch_scales(rng: Array, batch: int, depth: int, rate: float) -> Array:
    """float32 [depth, batch, 2]: 0 where a branch is dropped, 1 / (1 - its rate) where it is kept.

    Layer l's rate is rate * l / (depth - 1): timm's vision_transformer.py (linspace(0, rate)).
    """
    rates = jnp.linspace(0.0, rate, depth)
    kept = jax.random.uniform(rng, (batch, 2, depth)) >= rates
    return jnp.moveaxis(kept / (1 - rates), -1, 0)


def stack(layers: dict) -> dict:
    """Parameters of unrolled `Blocks` {"0": ..., "1": ...} -> those of scanned {"layers": ...}."""
    trees = [layers[str(i)] for i in range(len(layers))]
    return {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)}


def unstack(layers: dict) -> dict:
    """The inverse of `stack`."""
    depth = len(jax.tree.leaves(layers)[0])
    pick = lambda i: jax.tree.map(lambda leaf: leaf[i], layers["layers"])
    return {str(i): pick(i) for i in range(depth)}
