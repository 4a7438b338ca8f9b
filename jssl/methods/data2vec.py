"""data2vec, images: "data2vec: A General Framework for Self-supervised Learning in Speech, Vision
and Language" (Baevski, Hsu, Xu, Babu, Gu, Auli; ICML 2022; arXiv 2202.03555), sections 3 and 4.1.

A teacher, a moving average of the student, sees the whole image; the mean of what its last blocks
say of a patch, each normalised, is the target. The student sees the image with blocks of patches
hidden, and regresses the targets of the hidden ones.

Reference code: facebookresearch/data2vec_vision (beit). Targets are the blocks' outputs, each
through a LayerNorm without parameters, and so is their mean. Differences: no layer scale, no
relative position bias; the blocks' sizes, see `masking.block_mask`. Weights start as there
(`model.init="beit"`).
"""

import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config, UserError
from jssl.config.values import Count, Part, Positive
from jssl.core import DatasetInfo, Objective
from jssl.losses import smooth_l1
from jssl.nn import ema, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.transformer import Block
from jssl.ops import layer_norm_rows, patchify
from jssl.transforms.masking import beit_mask, mask_to_indices

KEYS = ema.KEYS | {
    "beta": Positive,
    "block_min": Positive,
    "mask_ratio": Part,
    "target_layers": Count,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    one, watch = masked_image.Setup(config), metrics.watcher(config)
    encoder, layers, beta = one.encoder, config.target_layers, config.beta
    count = masked_image.num_masked(config.mask_ratio, one.grid**2)
    slow = ema.teacher_from_config(config, EncoderWithHeads({"encoder": encoder}), "encoder")
    if encoder.scan or not 0 < layers <= encoder.depth:
        raise UserError(
            f"config.target_layers={layers} must be 1 to {encoder.depth}, the model's blocks, and "
            "config.model.scan False"
        )

    def start(rng, batch):
        rng_f, rng_token, rng_head = jax.random.split(rng, 3)
        params, _ = init(encoder, rng_f, one.centre(batch))
        token = one.token(rng_token)
        params = {"encoder": params, "mask_token": token}
        params["head"] = one.dense(rng_head, encoder.dim, encoder.dim)
        return params, slow.start(params, {"encoder": {}})

    def told(params, images):
        """[B, N, D]: the mean of the last blocks' normalised outputs, normalised once more
        (engine_for_cyclical.py:85 to 95, with its README's --post_target_layer_norm)."""
        is_block = lambda module, name: isinstance(module, Block) and name == "__call__"
        _, seen = encoder.apply(
            {"params": params}, images, train=False, capture_intermediates=is_block,
            mutable=["intermediates"],
        )  # fmt: skip
        blocks, last = seen["intermediates"]["blocks"], range(encoder.depth)[-layers:]
        outputs = [layer_norm_rows(blocks[str(i)]["__call__"][0]) for i in last]
        return layer_norm_rows(sum(outputs)[:, encoder.class_token :] / layers)

    def hidden_from(rng, images):
        return beit_mask(rng, len(images), one.grid, count, config.block_min, count)

    def predict(params, tokens):
        return tokens.astype(jnp.float32) @ params["head"]["kernel"] + params["head"]["bias"]

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        images = one.view(rng_view, batch["image"], batch["size"])
        mask = hidden_from(rng_mask, images)
        at = mask_to_indices(mask, count)[..., None]
        wanted = told(state.buffers["target"]["encoder"], images)
        hide, rngs = (mask, params["mask_token"]), {"drop_path": rng_net}
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=True, hide=hide, rngs=rngs)
        said = predict(params, jnp.take_along_axis(tokens[:, encoder.class_token :], at, axis=1))
        error = said - jax.lax.stop_gradient(jnp.take_along_axis(wanted, at, axis=1))
        metrics = watch(state.step, encoder.features(tokens))
        metrics |= {"ema": slow.now(state), "target_std": jnp.std(wanted, axis=(0, 1)).mean()}
        return smooth_l1(error, beta).mean(), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return one.embed(params, batch)

    def render(params, buffers, batch, rng):
        """original | masked | the patches whose targets are nearest to what is predicted."""
        images = one.centre(batch)
        mask = hidden_from(rng, images)
        hide = (mask, params["mask_token"])
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=False, hide=hide)
        said = predict(params, tokens[:, encoder.class_token :])
        patches, wanted = (
            patchify(images, encoder.patch),
            told(buffers["target"]["encoder"], images),
        )
        return {"masked": one.picture(patches, mask, one.lookup(said, wanted, patches))}

    return Objective(start, loss, embed, render, before_update=slow.follow)
