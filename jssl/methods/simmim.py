"""SimMIM: "SimMIM: A Simple Framework for Masked Image Modeling"
(Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu; CVPR 2022; arXiv 2111.09886), section 3.

Squares of an image are hidden: a learned token stands in for their patches, and the whole image
goes through the encoder. One linear layer predicts the raw pixels; the loss is the absolute error
on the hidden ones.

Reference code: microsoft/SimMIM models/simmim.py. Weights start as there: encoder, class and mask
token as BEiT's (`model.init="beit"`), the linear layer, there a convolution, as PyTorch's.
Difference: its ViT has relative positions, a bias that all blocks share; this one has the positions
that the recipe names.
"""

import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config
from jssl.config.values import Part, Pixels
from jssl.core import DatasetInfo, Objective
from jssl.losses import masked_l1
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.ops import patchify
from jssl.transforms.masking import grouped_mask, unit_count

KEYS = {
    "mask_ratio": Part,
    "mask_unit": Pixels,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    one = masked_image.Setup(config)
    encoder, watch, grid = one.encoder, metrics.watcher(config), one.grid
    unit, ratio = one.unit(config.mask_unit), config.mask_ratio
    masked_image.num_masked(ratio, (grid // unit) ** 2, unit_count)  # some squares, not all

    def start(rng, batch):
        rng_f, rng_token, rng_head = jax.random.split(rng, 3)
        params, _ = init(encoder, rng_f, one.centre(batch))
        token = one.token(rng_token)
        head = one.torch_dense(rng_head, encoder.dim, one.pixels)
        return {"encoder": params, "mask_token": token, "head": head}, {}

    def predict(params, images, rng, train):
        rng_mask, rng_net = jax.random.split(rng)
        mask = grouped_mask(rng_mask, len(images), grid, unit, ratio)
        hide, rngs = (mask, params["mask_token"]), {"drop_path": rng_net} if train else None
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=train, hide=hide, rngs=rngs)
        patches = tokens[:, encoder.class_token :].astype(jnp.float32)
        return patches @ params["head"]["kernel"] + params["head"]["bias"], mask, tokens

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = one.view(rng_view, batch["image"], batch["size"])
        prediction, mask, tokens = predict(params, images, rng_net, train=True)
        metrics = watch(state.step, encoder.features(tokens))
        return masked_l1(prediction, patchify(images, encoder.patch), mask), (
            state.buffers,
            metrics,
        )

    def embed(params, buffers, batch):
        return one.embed(params, batch)

    def render(params, buffers, batch, rng):
        """original | masked | reconstruction (visible patches as they are), side by side."""
        images = one.centre(batch)
        prediction, mask, _ = predict(params, images, rng, train=False)
        return {"masked": one.picture(patchify(images, encoder.patch), mask, prediction)}

    return Objective(start, loss, embed, render)
