"""I-JEPA: "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture"
(Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas; CVPR 2023; arXiv 2301.08243),
section 3.

The encoder sees a part of an image, the context. From that, and from the places of each of some
target blocks, a narrow predictor says what a moving average of the encoder, which sees the whole
image, says of the patches there. No crops, no colours, no pixels are predicted.

Reference code: facebookresearch/ijepa (src/masks/multiblock.py, src/train.py). Sizes must be known
before the program runs: each target is drawn with a size of its own and cut to the patches that the
smallest block has (there all targets of a batch have one size, and none is cut); the context is cut
to `config.context` of all patches (there to the batch's smallest), and where it has fewer, its
first patch is repeated. The average's decay rises by half a cosine, there linearly. What ends the
branches of deep blocks does not start smaller (there by sqrt(2 layer)), and patches are embedded
from U(+-1 / sqrt(fan in)), as timm does, there from N(0, .02).
"""

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np

from jssl import diagnose, masked, optim, target
from jssl.config import bind
from jssl.core import Method, Objective, minimize
from jssl.losses import smooth_l1
from jssl.masking import boxes, places, side_lengths
from jssl.nn.apply import Chain, apply, init
from jssl.nn.transformer import INITIALIZERS, Blocks, check_width, layer_norm
from jssl.nn.vit import sincos
from jssl.ops import normal_rows, patchify


class Predictor(linen.Module):
    """(tokens [B, K, D], where int32 [B, K], ask int32 [B, T]) -> [B, T, D]: what stands there."""

    dim: int
    depth: int
    heads: int
    out: int
    grid: int
    attention: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @linen.compact
    def __call__(self, tokens, where, ask, train):
        draw = INITIALIZERS["trunc02"]
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
        )(x, train)  # fmt: skip
        x = layer_norm(dtype=self.dtype, name="norm")(x[:, known.shape[1] :])
        return dense(self.out, name="project")(x).astype(jnp.float32)


def predictor(*, dim: int, depth: int, heads: int, grid: int, like) -> Predictor:
    """The predictor from ``config.predictor``, computed as the encoder `like` is."""
    check_width("predictor", dim, depth, heads)
    how = (like.attention, like.dtype, like.residual_dtype)
    return Predictor(dim, depth, heads, like.dim, grid, *how)


def smallest(area: tuple, aspect: tuple, grid: int) -> int:
    """The fewest patches that a block of these ranges can have."""
    sizes, ratios = np.meshgrid(np.linspace(*area, 201), np.geomspace(*aspect, 201))
    height, width = (np.clip(np.round(np.asarray(x)), 1, grid) for x in side_lengths(sizes, ratios))
    return int((height * width).min())


def build(config) -> Method:
    one, watch = masked.Setup(config), diagnose.watcher(config)
    encoder, n, blocks = one.encoder, one.grid**2, config.targets
    area = tuple(share * n for share in config.target_area)
    cut, kept = smallest(area, config.target_aspect, one.grid), masked.share(config.context, n)
    head = bind(predictor, config.predictor, "predictor", grid=one.grid, like=encoder)
    slow, skip = target.of(config, Chain({"encoder": encoder}), "encoder"), encoder.class_token

    def draw(rng, batch: int):
        """(where int32 [B, K] of the context, ask int32 [B, targets, T])."""
        rng_target, rng_context = jax.random.split(rng)
        hidden = boxes(
            rng_target, (batch, blocks), one.grid, area=area, aspect=config.target_aspect
        )
        share = tuple(share * n for share in config.context_area)
        context = boxes(rng_context, (batch,), one.grid, area=share, aspect=(1.0, 1.0))
        context = context & ~hidden.any(1)
        where, there = places(context, kept), jnp.take_along_axis
        where = jnp.where(there(context, where, axis=1), where, where[:, :1])
        return where, places(hidden.reshape(-1, n), cut).reshape(batch, blocks, cut)

    def start(rng, batch):
        rng_f, rng_g, rng_mask = jax.random.split(rng, 3)
        images = one.centre(batch)
        where, ask = draw(rng_mask, len(images))
        f, _ = init(encoder, rng_f, images, keep=where)
        tokens, _ = apply(encoder, f, {}, images, train=False, keep=where)
        g, _ = init(head, rng_g, tokens[:, skip:], where, ask[:, 0])
        params = {"encoder": f, "predictor": g}
        return params, slow.start(params, {"encoder": {}})

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        images = one.view(rng_view, batch["image"], batch["size"])
        where, ask = draw(rng_mask, len(images))
        whole, _ = apply(encoder, state.buffers["target"]["encoder"], {}, images, train=False)
        wanted = jax.lax.stop_gradient(normal_rows(whole[:, skip:]))
        rngs = {"drop_path": rng_net}
        seen, _ = apply(encoder, params["encoder"], {}, images, train=True, keep=where, rngs=rngs)
        seen, where = (jnp.repeat(x, blocks, axis=0) for x in (seen[:, skip:], where))
        ask = ask.reshape(-1, cut)
        said, _ = apply(head, params["predictor"], {}, seen, where, ask, train=True)
        there = jnp.take_along_axis(jnp.repeat(wanted, blocks, axis=0), ask[..., None], axis=1)
        metrics = watch(state.step, encoder.features(whole)) | {"ema": slow.now(state)}
        return smooth_l1(said - there, 1.0).mean(), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return one.embed({"encoder": buffers["target"]["encoder"]}, batch)

    def render(params, buffers, batch, rng):
        """original | context | the patches whose targets are nearest to what is predicted; gray
        where nothing was asked."""
        images = one.centre(batch)
        where, ask = draw(rng, len(images))
        rows = jnp.arange(len(images))[:, None]
        patches = patchify(images, encoder.patch)
        whole, _ = apply(encoder, buffers["target"]["encoder"], {}, images, train=False)
        seen, _ = apply(encoder, params["encoder"], {}, images, train=False, keep=where)
        guess = jnp.zeros((*patches.shape[:2], encoder.dim))
        for block in ask.swapaxes(0, 1):
            said, _ = apply(
                head, params["predictor"], {}, seen[:, skip:], where, block, train=False
            )
            guess = guess.at[rows, block].set(said)
        asked = jnp.zeros(patches.shape[:2]).at[rows[..., None], ask].set(1.0)[..., None]
        hidden = jnp.ones(patches.shape[:2]).at[rows, where].set(0.0)
        found = one.lookup(guess, normal_rows(whole[:, skip:]), patches)
        return {"masked": one.picture(patches, hidden, found * asked)}

    objective = Objective(start, loss, embed, render, prepare=slow.follow)
    return minimize(objective, optim.from_config(config), config.accumulate, config.grad_cache)
