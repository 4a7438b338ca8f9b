"""I-JEPA: "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture"
(Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas; CVPR 2023; arXiv 2301.08243),
section 3.

The encoder sees a part of an image, the context. From that, and from the places of each of some
target blocks, a narrow predictor says what a moving average of the encoder, which sees the whole
image, says of the patches there. No crops, no colours, no pixels are predicted.

Reference code: facebookresearch/ijepa (src/masks/multiblock.py, src/train.py, src/helper.py). A
batch has one size of targets and one of contexts, and every target is a whole rectangle. Arrays
have the size of the largest target, so that one program serves all; to what is beyond the batch's
size no token attends, and no loss counts it. A context is cut to `config.context` of all patches,
and may be smaller by itself (there all are cut to the smallest of the images on a device). Other
differences: a block may reach every patch (there none reaches the last row or column, as
`torch.randint` excludes its end); the average's decay rises by half a cosine, there linearly.
Linear layers, mask token and patch projection start from N(0, .02) (`model.init="normal02"`): the
constructor divides what ends the branches of deep blocks by sqrt(2 layer), but helper.py:86 to 99
then draws every Linear layer anew.
"""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config, call_with_section
from jssl.config.values import Count, Part, PartSpan, Span, Whole, Width
from jssl.core import DatasetInfo, Objective
from jssl.losses import smooth_l1
from jssl.nn import ema, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.transformer import INITIALIZERS, Blocks, check_width, layer_norm
from jssl.nn.vit import sincos
from jssl.ops import layer_norm_rows, patchify
from jssl.transforms.multiblock import Asked, check, draws

KEYS = ema.KEYS | {
    "targets": Count,
    "target_area": PartSpan,
    "target_aspect": Span,
    "context": Part,
    "context_min": Whole,
    "context_area": PartSpan,
}


class Predictor(linen.Module):
    """(tokens [B, K, D], where int32 [B, K], ask int32 [B, T], seen bool [B, K + T]) -> [B, T, D]:
    what stands there; where `seen` is False is a token that no other attends to."""

    dim: int
    depth: int
    heads: int
    out: int
    grid: int
    attention: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @linen.compact
    def __call__(self, tokens, where, ask, seen, train):
        draw = INITIALIZERS["normal02"]
        dense = partial(linen.Dense, kernel_init=draw, dtype=self.dtype)
        token = self.param("mask_token", draw, (self.dim,))
        table = jnp.asarray(sincos(self.dim, self.grid, False))
        known = dense(self.dim, name="embed")(tokens) + table[where]
        asked = token + table[ask]
        x = jnp.concatenate([known, asked], axis=1)
        x = Blocks(
            depth=self.depth, dim=self.dim, heads=self.heads, mlp_ratio=4.0, drop_path=0.0,
            remat="none", scan=False, attention=self.attention, initializer=draw,
            dtype=self.dtype, residual_dtype=self.residual_dtype, name="blocks",
        )(x, train, seen[:, None, None])  # fmt: skip
        x = layer_norm(dtype=self.dtype, name="norm")(x[:, known.shape[1] :])
        return dense(self.out, name="project")(x).astype(jnp.float32)


def predictor(*, dim: Width, depth: Count, heads: Count, grid: int, like) -> Predictor:
    """The predictor from ``config.predictor``, computed as the encoder `like` is."""
    check_width("predictor", dim, depth, heads)
    how = (like.attention, like.dtype, like.residual_dtype)
    return Predictor(dim, depth, heads, like.dim, grid, *how)


def build(config: Config, data_info: DatasetInfo) -> Objective:
    one, watch = masked_image.Setup(config), metrics.watcher(config)
    encoder, blocks = one.encoder, config.targets
    kept = masked_image.num_masked(config.context, one.grid**2)
    check(config, kept)
    draw = draws(config, one.grid, kept)
    head = call_with_section(predictor, config.predictor, "predictor", grid=one.grid, like=encoder)
    slow, skip = (
        ema.teacher_from_config(config, EncoderWithHeads({"encoder": encoder}), "encoder"),
        encoder.class_token,
    )

    def encode(f, images, ask: Asked, train: bool, rngs=None):
        tokens, _ = apply(
            encoder, f, {}, images, train=train, keep=ask.where, seen=ask.seen, rngs=rngs
        )
        return tokens[:, skip:]

    def start(rng, batch):
        rng_f, rng_g, rng_mask = jax.random.split(rng, 3)
        images = one.centre(batch)
        ask = draw(rng_mask, len(images))
        f, _ = init(encoder, rng_f, images, keep=ask.where)
        tokens = jnp.repeat(encode(f, images, ask, False), blocks, axis=0)
        g, _ = init(head, rng_g, tokens, *ask.rows())
        params = {"encoder": f, "predictor": g}
        return params, slow.start(params, {"encoder": {}})

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        images = one.view(rng_view, batch["image"], batch["size"])
        ask = draw(rng_mask, len(images))
        whole, _ = apply(encoder, state.buffers["target"]["encoder"], {}, images, train=False)
        wanted = jax.lax.stop_gradient(layer_norm_rows(whole[:, skip:]))
        tokens = encode(params["encoder"], images, ask, True, {"drop_path": rng_net})
        tokens, wanted = (jnp.repeat(x, blocks, axis=0) for x in (tokens, wanted))
        where, at, seen = ask.rows()
        said, _ = apply(head, params["predictor"], {}, tokens, where, at, seen, train=True)
        there = jnp.take_along_axis(wanted, at[..., None], axis=1)
        each = smooth_l1(said - there, 1.0).mean((0, 2))
        value = jnp.where(ask.asked, each, 0).sum() / ask.asked.sum()
        metrics = watch(state.step, encoder.features(whole)) | {"ema": slow.now(state)}
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return one.embed({"encoder": buffers["target"]["encoder"]}, batch)

    def render(params, buffers, batch, rng):
        """original | context | the patches whose targets are nearest to what is predicted; gray
        where nothing was asked."""
        images = one.centre(batch)
        ask = draw(rng, len(images))
        patches = patchify(images, encoder.patch)
        whole, _ = apply(encoder, buffers["target"]["encoder"], {}, images, train=False)
        tokens = jnp.repeat(encode(params["encoder"], images, ask, False), blocks, axis=0)
        said, _ = apply(head, params["predictor"], {}, tokens, *ask.rows(), train=False)
        said = said.reshape(*ask.at.shape, encoder.dim)
        one_hot = jax.nn.one_hot(ask.at, patches.shape[1]) * ask.asked[:, None]  # [B, blocks, T, N]
        count = one_hot.sum((1, 2))[..., None]
        guess = jnp.einsum("bktn,bktd->bnd", one_hot, said) / jnp.maximum(count, 1)
        hidden = 1 - jax.nn.one_hot(ask.where, patches.shape[1]) * ask.seen[..., None]
        found = one.lookup(guess, layer_norm_rows(whole[:, skip:]), patches)
        return {"masked": one.picture(patches, hidden.min(1), found * (count > 0))}

    return Objective(start, loss, embed, render, before_update=slow.follow)
