"""SimMIM: "SimMIM: A Simple Framework for Masked Image Modeling"
(Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu; CVPR 2022; arXiv 2111.09886), section 3.

Squares of an image are masked: a learned token replaces their patches, and the whole image passes
through the encoder. One linear layer predicts the raw pixels. The loss is the absolute error on the
masked ones.

Reference code: microsoft/SimMIM models/simmim.py. Weights are initialized as there: encoder, class
token and mask token as in BEiT (`model.init="beit"`), the linear layer, there a convolution, as in
PyTorch. Difference: its ViT has relative positions, a bias that all blocks share; this one has the
positions that the recipe names.
"""

from typing import Annotated

import jax

from jssl.config import Config
from jssl.config.values import Part, Pixels
from jssl.core import DatasetInfo, Objective
from jssl.losses import masked_l1
from jssl.metrics import monitor_from_config
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.nn.masked_image import dense, patch_tokens
from jssl.ops import patchify
from jssl.transforms.masking import grouped_mask, unit_count

KEYS = {
    "mask_ratio": Annotated[Part, "share of the squares that are masked"],
    "mask_unit": Annotated[Pixels, "side of a masked square, in pixels; a multiple of model.patch"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    grid = masked_image.grid_side(config, encoder)
    unit = masked_image.mask_unit(config, encoder)
    masked_image.num_masked(config.mask_ratio, (grid // unit) ** 2, unit_count)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_encoder, rng_token, rng_head = jax.random.split(rng, 3)
        params, _ = init(encoder, rng_encoder, view(batch))
        mask_token = masked_image.init_mask_token(rng_token, encoder)
        num_pixels = masked_image.patch_pixels(config, encoder)
        head = masked_image.init_torch_dense(rng_head, encoder.dim, num_pixels)
        return {"encoder": params, "mask_token": mask_token, "head": head}, {}

    def predict(params, images, rng, train):
        rng_mask, rng_net = jax.random.split(rng)
        mask = grouped_mask(rng_mask, len(images), grid, unit, config.mask_ratio)
        tokens, _ = apply(
            encoder,
            params["encoder"],
            {},
            images,
            train=train,
            mask=mask,
            mask_token=params["mask_token"],
            rngs={"drop_path": rng_net} if train else None,
        )
        return dense(params["head"], patch_tokens(encoder, tokens)), mask, tokens

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = train_view(rng_view, batch)
        prediction, mask, tokens = predict(params, images, rng_net, train=True)
        value = masked_l1(prediction, patchify(images, encoder.patch), mask)
        return value, (state.buffers, monitor(state.step, encoder.features(tokens)))

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        prediction, mask, _ = predict(params, images, rng, train=False)
        patches = patchify(images, encoder.patch)
        picture = masked_image.reconstruction_panel(config, encoder, patches, mask, prediction)
        return {"masked": picture}

    return Objective(init_params, loss, embed, render)
