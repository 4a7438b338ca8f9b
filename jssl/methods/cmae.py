"""CMAE: "Contrastive Masked Autoencoders are Stronger Vision Learners"
(Huang, Jin, Lu, Hou, Cheng, Fu, Shen, Feng; TPAMI 2023; arXiv 2207.13532), figure 2.

A masked image passes through a ViT and two decoders. The first predicts the masked pixels, as in
MAE. The second predicts features of all patches; their mean, after a projector and a predictor, is
a query. A moving average of ViT and projector sees the whole image, shifted by a few pixels and
with other colors; the mean of its patches is the key. Each query must find the key of its image
among the keys of the batch.

Reference code: ZhichengHuang/CMAE (models/algorithms/cmae.py, models/heads/cmae_head.py,
datasets/cmae_dataset.py). As there, the contrastive loss has the factor 2 tau, the decoder of
features is as wide as the encoder at its end, and the first window of the shift is the upper left
one. Differences: the keys pass the last LayerNorm of the encoder; the momentum follows half a
cosine; crops are resized bilinearly. The code masks .65 of the patches, the paper .75.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config, ConfigError
from jssl.config.values import NonNegative, Part, Positive, Whole
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce, masked_mse
from jssl.metrics import monitor_from_config
from jssl.nn import ema, heads, mae_decoder, masked_image
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.ops import normalize_patches, patchify
from jssl.transforms.masking import random_masking
from jssl.transforms.views import shifted_views

KEYS = ema.KEYS | {
    "mask_ratio": Annotated[Part, "share of the patches that are masked"],
    "temperature": Annotated[Positive, "divides the similarities (tau); 2 tau scales the loss"],
    "shift": Annotated[Whole, "largest shift of the whole image against the masked one, in pixels"],
    "contrastive_weight": Annotated[NonNegative, "weight of the contrastive loss"],
}
SECTIONS = mae_decoder.SECTIONS | {"feature_decoder": mae_decoder.SECTIONS["decoder"]}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    if not encoder.class_token:
        raise ConfigError("config.model.class_token", False, "CMAE needs it", "set it to True")
    num_patches = masked_image.grid_side(config, encoder) ** 2
    pixel_count = masked_image.patch_pixels(config, encoder)
    decoder = mae_decoder.from_config(config, encoder, pixel_count)
    features = mae_decoder.from_config(config, encoder, encoder.dim, "feature_decoder")
    net = heads.chain(config, "head", "predictor")
    projections = {name: net.modules[name] for name in ("head", "predictor")}
    teacher = ema.teacher_from_config(config, net, "encoder", "head")
    views = shifted_views(config, config.shift)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_net, rng_decoder, rng_features, rng_mask = jax.random.split(rng, 4)
        images = view(batch)
        params, stats = net.init(rng_net, images)
        keep_ids, _, restore = random_masking(rng_mask, len(images), num_patches, config.mask_ratio)
        tokens = jnp.zeros((len(images), 1 + keep_ids.shape[1], encoder.dim))
        params["decoder"], _ = init(decoder, rng_decoder, tokens, restore)
        params["feature_decoder"], _ = init(features, rng_features, tokens, restore)
        return params, {"stats": stats} | teacher.init(params, stats)

    def encode(params, images, mask, train, rng=None):
        """Decoded pixels and features of all patches of masked images."""
        keep_ids, _, restore = mask
        rngs = None if rng is None else {"drop_path": rng}
        tokens, _ = apply(
            encoder, params["encoder"], {}, images, train=train, keep_ids=keep_ids, rngs=rngs
        )
        tokens = masked_image.without_registers(encoder, tokens)
        pixels, _ = apply(decoder, params["decoder"], {}, tokens, restore, train=train)
        found, _ = apply(features, params["feature_decoder"], {}, tokens, restore, train=train)
        return pixels, found

    def forward(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        images, whole = views(rng_view, batch)
        mask = random_masking(rng_mask, len(images), num_patches, config.mask_ratio)
        pixels, found = encode(params, images, mask, True, rng_net)
        buffers = state.buffers
        stats = dict(buffers["stats"])
        x = found.mean(1)
        for name, module in projections.items():
            x, stats[name] = apply(module, params[name], stats[name], x, train=True)
        keys, teacher_stats = key_of(buffers, whole)
        target, _, _ = normalize_patches(patchify(images, encoder.patch))
        outputs = {"pixels": pixels, "target": target, "mask": mask[1], "q": x, "k": keys}
        return outputs, buffers | {"stats": stats, "teacher_stats": teacher_stats}

    def key_of(buffers, images):
        own, stats = buffers["teacher"], dict(buffers["teacher_stats"])
        tokens, _ = apply(teacher.net.modules["encoder"], own["encoder"], {}, images, train=True)
        mean = masked_image.patch_tokens(encoder, tokens).mean(1)
        k, stats["head"] = apply(
            teacher.net.modules["head"], own["head"], stats["head"], mean, train=True
        )
        return lax.stop_gradient(k), stats

    def loss(params, outputs, state, batch, rng):
        pixel_loss = masked_mse(outputs["pixels"], outputs["target"], outputs["mask"])
        contrast, top1 = info_nce(outputs["q"], outputs["k"], config.temperature)
        metrics = monitor(state.step, outputs["k"]) | {"contrastive_top1": top1}
        metrics |= {"pixel_loss": pixel_loss, "contrastive_loss": contrast}
        metrics["ema_decay"] = teacher.decay(state)
        value = pixel_loss + config.contrastive_weight * 2 * config.temperature * contrast
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return EncoderWithHeads({"encoder": encoder}).embed(params, {"encoder": {}}, view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        mask = random_masking(rng, len(images), num_patches, config.mask_ratio)
        pixels, _ = encode(params, images, mask, False)
        patches = patchify(images, encoder.patch)
        _, mean, deviation = normalize_patches(patches)
        shown = pixels * deviation + mean
        return {
            "masked": masked_image.reconstruction_panel(config, encoder, patches, mask[1], shown)
        }

    return split_objective(
        init_params, forward, loss, embed, before_update=teacher.update, render=render
    )
