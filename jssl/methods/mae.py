"""MAE: "Masked Autoencoders Are Scalable Vision Learners"
(He, Chen, Xie, Li, Dollar, Girshick; CVPR 2022; arXiv 2111.06377), figure 1.

Three quarters of the patches of an image are masked, and a ViT encodes the rest. A small decoder
gets the encoded patches and a learned mask token at each masked position, and predicts the masked
pixels. The loss is the squared error on the masked patches, each normalized by its own mean and
standard deviation.

Reference code: facebookresearch/mae models_mae.py. The initialization is the same: Xavier uniform
for every Dense layer and the patch embedding, N(0, .02) for class and mask token, fixed sine-cosine
positions in encoder and decoder. Biases and LayerNorms have no weight decay (`optim.no_decay`).
Difference: crops are resized bilinearly, not bicubically.
"""

from typing import Annotated

import jax

from jssl.config import Config, ConfigError
from jssl.config.values import Part
from jssl.core import DatasetInfo, Objective
from jssl.losses import masked_mse
from jssl.metrics import monitor_from_config
from jssl.nn import mae_decoder, masked_image
from jssl.nn.apply import apply, init
from jssl.ops import normalize_patches, patchify
from jssl.transforms.masking import random_masking

KEYS = {
    "mask_ratio": Annotated[Part, "share of the patches that are masked"],
    "norm_pix": Annotated[bool, "predict each patch normalized by its own mean and deviation"],
}
SECTIONS = mae_decoder.SECTIONS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    if not encoder.class_token:
        raise ConfigError(
            "config.model.class_token", False, "MAE has a class token", "set it to True"
        )
    num_patches = masked_image.grid_side(config, encoder) ** 2
    pixels = masked_image.patch_pixels(config, encoder)
    head = mae_decoder.from_config(config, encoder, pixels)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_encoder, rng_decoder, rng_mask = jax.random.split(rng, 3)
        images = view(batch)
        keep_ids, _, restore = random_masking(rng_mask, len(images), num_patches, config.mask_ratio)
        encoder_params, _ = init(encoder, rng_encoder, images, keep_ids=keep_ids)
        tokens, _ = apply(encoder, encoder_params, {}, images, train=False, keep_ids=keep_ids)
        tokens = masked_image.without_registers(encoder, tokens)
        decoder_params, _ = init(head, rng_decoder, tokens, restore)
        return {"encoder": encoder_params, "decoder": decoder_params}, {}

    def predict(params, images, rng, train):
        rng_mask, rng_net = jax.random.split(rng)
        keep_ids, mask, restore = random_masking(
            rng_mask, len(images), num_patches, config.mask_ratio
        )
        rngs = {"drop_path": rng_net} if train else None
        tokens, _ = apply(
            encoder, params["encoder"], {}, images, train=train, keep_ids=keep_ids, rngs=rngs
        )
        decoded = masked_image.without_registers(encoder, tokens)
        prediction, _ = apply(head, params["decoder"], {}, decoded, restore, train=train)
        return prediction, mask, tokens

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        images = train_view(rng_view, batch)
        prediction, mask, tokens = predict(params, images, rng_net, train=True)
        target = patchify(images, encoder.patch)
        if config.norm_pix:
            target, _, _ = normalize_patches(target)
        metrics = monitor(state.step, encoder.features(tokens))
        return masked_mse(prediction, target, mask), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        prediction, mask, _ = predict(params, images, rng, train=False)
        patches = patchify(images, encoder.patch)
        if config.norm_pix:  # the prediction lacks mean and deviation of a patch: use the true ones
            _, mean, deviation = normalize_patches(patches)
            prediction = prediction * deviation + mean
        picture = masked_image.reconstruction_panel(config, encoder, patches, mask, prediction)
        return {"masked": picture}

    return Objective(init_params, loss, embed, render)
