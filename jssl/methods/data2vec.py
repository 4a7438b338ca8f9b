"""data2vec, images: "data2vec: A General Framework for Self-supervised Learning in Speech, Vision
and Language" (Baevski, Hsu, Xu, Babu, Gu, Auli; ICML 2022; arXiv 2202.03555), sections 3 and 4.1.

A teacher, a moving average of the student, sees the whole image. The target of a patch is the mean
of the normalized outputs of the teacher's last blocks. The student sees the image with blocks of
patches masked, and regresses the targets of the masked ones.

Reference code: facebookresearch/data2vec_vision (beit). The outputs of the blocks
and their mean pass through a LayerNorm without parameters. Weights are initialized as there
(`model.init="beit"`). Differences: no layer scale, no relative position bias; the blocks' sizes,
see `masking.block_mask`.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError
from jssl.config.values import Count, Part, Positive
from jssl.core import DatasetInfo, Objective, Params
from jssl.losses import smooth_l1
from jssl.metrics import monitor_from_config
from jssl.nn import ema, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.masked_image import dense, patch_tokens
from jssl.nn.transformer import Block
from jssl.nn.vit_encoder import ViT
from jssl.ops import layer_norm_rows, patchify
from jssl.transforms.masking import beit_mask, mask_to_indices

KEYS = ema.KEYS | {
    "beta": Annotated[
        Positive, "error at which the loss turns from quadratic to linear (the paper's beta)"
    ],
    "min_block_patches": Annotated[Positive, "area of the smallest masked rectangle, in patches"],
    "mask_ratio": Annotated[Part, "share of the patches that are masked"],
    "target_layers": Annotated[
        Count, "number of last blocks whose mean output is the target (the paper's K)"
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    if encoder.scan or config.target_layers > encoder.depth:
        raise ConfigError(
            "config.target_layers",
            config.target_layers,
            f"must be 1 to {encoder.depth}, the blocks of the model, without scanned layers",
            f"try {encoder.depth}, and --config.model.scan=False",
        )
    grid = masked_image.grid_side(config, encoder)
    num_masked = masked_image.num_masked(config.mask_ratio, grid**2)
    net = EncoderWithHeads({"encoder": encoder})
    teacher = ema.teacher_from_config(config, net, "encoder")
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_encoder, rng_token, rng_head = jax.random.split(rng, 3)
        encoder_params, _ = init(encoder, rng_encoder, view(batch))
        mask_token = masked_image.init_mask_token(rng_token, encoder)
        head = masked_image.init_dense(rng_head, encoder, encoder.dim, encoder.dim)
        params = {"encoder": encoder_params, "mask_token": mask_token, "head": head}
        return params, teacher.init(params, {"encoder": {}})

    def draw_mask(rng, images):
        least = config.min_block_patches
        return beit_mask(rng, len(images), grid, num_masked, least, num_masked)

    def encode(params, images, mask, train, rngs=None):
        masking = {"mask": mask, "mask_token": params["mask_token"]}
        return apply(encoder, params["encoder"], {}, images, train=train, rngs=rngs, **masking)[0]

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        images = train_view(rng_view, batch)
        mask = draw_mask(rng_mask, images)
        index = mask_to_indices(mask, num_masked)[..., None]
        teacher_params = state.buffers["teacher"]["encoder"]
        targets = teacher_targets(encoder, teacher_params, images, config.target_layers)
        tokens = encode(params, images, mask, True, {"drop_path": rng_net})
        masked_tokens = jnp.take_along_axis(patch_tokens(encoder, tokens), index, axis=1)
        masked_targets = jnp.take_along_axis(targets, index, axis=1)
        error = dense(params["head"], masked_tokens) - jax.lax.stop_gradient(masked_targets)
        metrics = monitor(state.step, encoder.features(tokens))
        metrics["ema_decay"] = teacher.decay(state)
        metrics["target_std"] = jnp.std(targets, axis=(0, 1)).mean()
        return smooth_l1(error, config.beta).mean(), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        mask = draw_mask(rng, images)
        tokens = encode(params, images, mask, False)
        predicted = dense(params["head"], patch_tokens(encoder, tokens))
        teacher_params = buffers["teacher"]["encoder"]
        targets = teacher_targets(encoder, teacher_params, images, config.target_layers)
        patches = patchify(images, encoder.patch)
        guess = masked_image.nearest_patches(predicted, targets, patches)
        picture = masked_image.reconstruction_panel(config, encoder, patches, mask, guess)
        return {"masked": picture}

    return Objective(init_params, loss, embed, render, before_update=teacher.update)


def teacher_targets(encoder: ViT, params: Params, images: Array, num_layers: int) -> Array:
    """[B, N, D]: the mean of the normalized outputs of the last blocks, normalized once more
    (engine_for_cyclical.py:85 to 95, with its README's --post_target_layer_norm)."""

    def is_block(module, name):
        return isinstance(module, Block) and name == "__call__"

    captured: Any
    _, captured = encoder.apply(
        {"params": params},
        images,
        train=False,
        capture_intermediates=is_block,
        mutable=["intermediates"],
    )
    blocks = captured["intermediates"]["blocks"]
    last = range(encoder.depth)[-num_layers:]
    outputs = [layer_norm_rows(blocks[str(i)]["__call__"][0]) for i in last]
    total: Any = sum(outputs)
    return layer_norm_rows(patch_tokens(encoder, total) / num_layers)
