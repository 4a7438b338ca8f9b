"""I-JEPA: "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture"
(Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas; CVPR 2023; arXiv 2301.08243),
section 3.

The encoder sees a part of an image, the context. From the context, and from the positions of some
target blocks, a narrow predictor predicts the representations of the patches there. The targets
come from a moving average of the encoder that sees the whole image. No pixels are predicted, and
there is no color augmentation.

Reference code: facebookresearch/ijepa (src/masks/multiblock.py, src/train.py, src/helper.py). A
batch has one size of targets and one of contexts, and every target is a whole rectangle. Arrays
have the size of the largest target, so that one program serves all sizes; no token attends to
positions beyond the batch's size, and the loss does not count them. A context is cut to
`config.context_fraction` of all patches and may be smaller (there all are cut to the smallest of
the images on a device). Other differences: a block may reach every patch (there none reaches the
last row or column, as `torch.randint` excludes its end); the EMA decay follows half a cosine, there
a line. Linear layers, mask token and patch projection are drawn from N(0, .02)
(`model.init="normal02"`): the constructor divides the output layers of deep blocks by sqrt(2
layer), but helper.py:86 to 99 then draws every Linear layer anew.
"""

from functools import partial
from typing import Annotated

import flax.linen as linen
import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, call_with_section, values
from jssl.config.values import Count, Part, PartSpan, Span, Whole, Width
from jssl.core import DatasetInfo, Objective
from jssl.losses import smooth_l1
from jssl.metrics import monitor_from_config
from jssl.nn import ema, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.masked_image import patch_tokens
from jssl.nn.positions import sincos
from jssl.nn.transformer import INITIALIZERS, check_width, layer_norm
from jssl.nn.transformer import Blocks as TransformerBlocks
from jssl.nn.vit_encoder import ViT
from jssl.ops import layer_norm_rows, patchify
from jssl.transforms.multiblock import Blocks, block_sampler, check_blocks

KEYS = ema.KEYS | {
    "num_targets": Annotated[Count, "target blocks of each image (the paper's M)"],
    "target_area": Annotated[PartSpan, "range of the area of a target, as a share of the image"],
    "target_aspect": Annotated[Span, "range of the height / width of a target"],
    "context_fraction": Annotated[
        Part, "largest context, as a share of the patches; a larger one is cut"
    ],
    "min_context_patches": Annotated[
        Whole, "a context must have more patches than this, if possible"
    ],
    "context_area": Annotated[
        PartSpan, "range of a context's area before targets are removed, as a share of the image"
    ],
}


class Predictor(linen.Module):
    """(tokens [B, K, D], context_ids int32 [B, K], target_ids int32 [B, T], valid bool [B, K + T])
    -> [B, T, D], the representations at `target_ids`. No token attends to one that is not valid."""

    dim: int
    depth: int
    heads: int
    out: int
    grid: int
    attention: str
    dtype: jnp.dtype
    residual_dtype: jnp.dtype

    @linen.compact
    def __call__(
        self, tokens: Array, context_ids: Array, target_ids: Array, valid: Array, train: bool
    ) -> Array:
        initializer = INITIALIZERS["normal02"]
        dense = partial(linen.Dense, kernel_init=initializer, dtype=self.dtype)
        mask_token = self.param("mask_token", initializer, (self.dim,))
        positions = jnp.asarray(sincos(self.dim, self.grid, False))
        context = dense(self.dim, name="embed")(tokens) + positions[context_ids]
        queries = mask_token + positions[target_ids]
        x = jnp.concatenate([context, queries], axis=1)
        x = TransformerBlocks(
            depth=self.depth,
            dim=self.dim,
            heads=self.heads,
            hidden=4 * self.dim,
            drop_path=0.0,
            remat="none",
            scan=False,
            attention=self.attention,
            initializer=initializer,
            dtype=self.dtype,
            residual_dtype=self.residual_dtype,
            name="blocks",
        )(x, train, valid[:, None, None])
        x = layer_norm(dtype=self.dtype, name="norm")(x[:, context.shape[1] :])
        return dense(self.out, name="project")(x).astype(jnp.float32)


def predictor(*, dim: Width, depth: Count, heads: Count, grid: int, encoder: ViT) -> Predictor:
    """The predictor from ``config.predictor``, computed as the encoder is.

    Args:
      dim: width of the predictor, a multiple of 4.
      depth: number of transformer blocks of the predictor.
      heads: attention heads of each block; their number divides dim.
      grid: patches along a side of an image.
      encoder: the encoder whose representations it predicts.
    """
    check_width("predictor", dim, depth, heads)
    return Predictor(
        dim=dim,
        depth=depth,
        heads=heads,
        out=encoder.dim,
        grid=grid,
        attention=encoder.attention,
        dtype=encoder.dtype,
        residual_dtype=encoder.residual_dtype,
    )


SECTIONS = {"predictor": values.documented_kinds(predictor)}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    grid = masked_image.grid_side(config, encoder)
    num_context = masked_image.num_masked(config.context_fraction, grid**2)
    check_blocks(config, num_context)
    sample_blocks = block_sampler(config, grid, num_context)
    head = call_with_section(predictor, config.predictor, "predictor", grid=grid, encoder=encoder)
    teacher = ema.teacher_from_config(config, EncoderWithHeads({"encoder": encoder}), "encoder")
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def encode_context(params, images, blocks, train, rngs=None):
        """[B targets, K, D]: the tokens of each context, once for each of its targets."""
        ids = blocks.context_ids
        valid = blocks.context_valid
        tokens, _ = apply(
            encoder, params, {}, images, train=train, keep_ids=ids, valid=valid, rngs=rngs
        )
        return jnp.repeat(patch_tokens(encoder, tokens), config.num_targets, axis=0)

    def encode_all(params, images):
        return apply(encoder, params, {}, images, train=False)[0]

    def init_params(rng, batch):
        rng_encoder, rng_predictor, rng_blocks = jax.random.split(rng, 3)
        images = view(batch)
        blocks = sample_blocks(rng_blocks, len(images))
        encoder_params, _ = init(encoder, rng_encoder, images, keep_ids=blocks.context_ids)
        tokens = encode_context(encoder_params, images, blocks, False)
        predictor_params, _ = init(head, rng_predictor, tokens, *blocks.rows())
        params = {"encoder": encoder_params, "predictor": predictor_params}
        return params, teacher.init(params, {"encoder": {}})

    def loss(params, state, batch, rng):
        rng_view, rng_blocks, rng_net = jax.random.split(rng, 3)
        images = train_view(rng_view, batch)
        blocks = sample_blocks(rng_blocks, len(images))
        teacher_tokens = encode_all(state.buffers["teacher"]["encoder"], images)
        targets = jax.lax.stop_gradient(layer_norm_rows(patch_tokens(encoder, teacher_tokens)))
        rngs = {"drop_path": rng_net}
        tokens = encode_context(params["encoder"], images, blocks, True, rngs)
        targets = jnp.repeat(targets, config.num_targets, axis=0)
        _, target_ids, _ = blocks.rows()
        predicted, _ = apply(head, params["predictor"], {}, tokens, *blocks.rows(), train=True)
        targets = jnp.take_along_axis(targets, target_ids[..., None], axis=1)
        error_T = smooth_l1(predicted - targets, 1.0).mean((0, 2))
        valid_T = blocks.target_valid
        value = jnp.where(valid_T, error_T, 0).sum() / valid_T.sum()
        metrics = monitor(state.step, encoder.features(teacher_tokens))
        return value, (state.buffers, metrics | {"ema_decay": teacher.decay(state)})

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, buffers["teacher"]["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        blocks = sample_blocks(rng, len(images))
        tokens = encode_context(params["encoder"], images, blocks, False)
        predicted, _ = apply(head, params["predictor"], {}, tokens, *blocks.rows(), train=False)
        teacher_tokens = encode_all(buffers["teacher"]["encoder"], images)
        targets = layer_norm_rows(patch_tokens(encoder, teacher_tokens))
        patches = patchify(images, encoder.patch)
        guess, hidden = predicted_patches(blocks, predicted, targets, patches)
        picture = masked_image.reconstruction_panel(config, encoder, patches, hidden, guess)
        return {"masked": picture}

    return Objective(
        init_params, loss, embed, render, before_update=teacher.update, embeds="teacher"
    )


def predicted_patches(
    blocks: Blocks, predicted: Array, targets: Array, patches: Array
) -> tuple[Array, Array]:
    """(guess [B, N, P], hidden [B, N]): the patches whose targets are nearest to the predictions,
    gray where nothing was predicted, and 1 where a patch is not in the context."""
    num_patches = patches.shape[1]
    predicted = predicted.reshape(*blocks.target_ids.shape, predicted.shape[-1])
    one_hot = jax.nn.one_hot(blocks.target_ids, num_patches)  # [B, targets, T, N]
    one_hot = one_hot * blocks.target_valid[:, None]
    count = one_hot.sum((1, 2))[..., None]
    mean = jnp.einsum("bktn,bktd->bnd", one_hot, predicted) / jnp.maximum(count, 1)
    in_context = jax.nn.one_hot(blocks.context_ids, num_patches) * blocks.context_valid[..., None]
    guess = masked_image.nearest_patches(mean, targets, patches) * (count > 0)
    return guess, (1 - in_context).min(1)
