"""BEiT: "BEiT: BERT Pre-Training of Image Transformers"
(Bao, Dong, Piao, Wei; ICLR 2022; arXiv 2106.08254), section 2, with another tokenizer.

Blocks of patches are masked. The encoder must predict which visual token, one of K, was at each
masked position. The loss is the cross-entropy at those positions.

The paper's tokens are those of DALL-E's discrete VAE, whose weights are given. Here a codebook of
normalized patches is learned first, in the run itself, by online k-means (a moving average of each
code's patches, as in VQ-VAE: van den Oord et al. 2017, appendix A.1). In the first
`config.tokenizer_steps` steps nothing else is trained: the recipe freezes all parameters
(`optim.freeze`), and Adam's moments are zero at the end of the freeze. Then the codebook is fixed.

Reference code for the rest: microsoft/unilm beit; weights are initialized as there
(`model.init="beit"`). Differences: no layer scale, no relative position bias; the blocks' sizes,
see `masking.block_mask`.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Every, Part, Positive, Rate, Width
from jssl.core import Buffers, DatasetInfo, Objective
from jssl.losses import cross_entropy
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.nn.masked_image import dense, patch_tokens
from jssl.ops import nearest_index, normalize_patches, patchify
from jssl.transforms.masking import beit_mask, mask_to_indices

KEYS = {
    "num_codes": Annotated[Width, "number of visual tokens in the codebook (the paper's |V|)"],
    "min_block_patches": Annotated[Positive, "area of the smallest masked rectangle, in patches"],
    "mask_ratio": Annotated[Part, "share of the patches that are masked"],
    "tokenizer_steps": Annotated[Every, "number of first steps, in which the codebook is learned"],
    "tokenizer_decay": Annotated[Rate, "decay of the moving averages of the codebook"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    grid = masked_image.grid_side(config, encoder)
    num_masked = masked_image.num_masked(config.mask_ratio, grid**2)
    num_pixels = masked_image.patch_pixels(config, encoder)
    train_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def init_params(rng, batch):
        rng_encoder, rng_token, rng_head, rng_codes = jax.random.split(rng, 4)
        encoder_params, _ = init(encoder, rng_encoder, view(batch))
        head = masked_image.init_dense(rng_head, encoder, encoder.dim, config.num_codes)
        mask_token = masked_image.init_mask_token(rng_token, encoder)
        params = {"encoder": encoder_params, "head": head, "mask_token": mask_token}
        codebook = jax.random.normal(rng_codes, (config.num_codes, num_pixels))
        return params, {"codebook": codebook, "use": jnp.ones(config.num_codes)}

    def draw_mask(rng, images):
        least = config.min_block_patches
        return beit_mask(rng, len(images), grid, num_masked, least, num_masked)

    def encode(params, images, mask, train, rngs=None):
        masking = {"mask": mask, "mask_token": params["mask_token"]}
        return apply(encoder, params["encoder"], {}, images, train=train, rngs=rngs, **masking)[0]

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net, rng_codes = jax.random.split(rng, 4)
        images = train_view(rng_view, batch)
        patches, _, _ = normalize_patches(patchify(images, encoder.patch))
        mask = draw_mask(rng_mask, images)
        index = mask_to_indices(mask, num_masked)[..., None]
        masked_patches = jnp.take_along_axis(patches, index, axis=1).reshape(-1, num_pixels)
        targets = nearest_index(masked_patches, state.buffers["codebook"], spherical=False)
        tokens = encode(params, images, mask, True, {"drop_path": rng_net})
        masked_tokens = jnp.take_along_axis(patch_tokens(encoder, tokens), index, axis=1)
        logits = dense(params["head"], masked_tokens.reshape(-1, encoder.dim))
        value, top1 = cross_entropy(logits, targets)
        buffers = lax.cond(
            state.step < config.tokenizer_steps,
            lambda: update_codebook(config, state.buffers, patches, rng_codes),
            lambda: state.buffers,
        )
        usage = jnp.bincount(targets, length=config.num_codes) / len(targets)
        metrics = monitor(state.step, encoder.features(tokens)) | {"token_top1": top1}
        metrics["usage_entropy"] = entropy(usage[None])["usage_entropy"]
        return value, (buffers, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        images = view(batch)
        mask = draw_mask(rng, images)
        tokens = patch_tokens(encoder, encode(params, images, mask, False))
        codes = dense(params["head"], tokens).argmax(-1)
        patches = patchify(images, encoder.patch)
        _, mean, deviation = normalize_patches(patches)  # codes have neither: use the true ones
        guess = buffers["codebook"][codes] * deviation + mean
        picture = masked_image.reconstruction_panel(config, encoder, patches, mask, guess)
        return {"masked": picture}

    return Objective(init_params, loss, embed, render)


def update_codebook(config: Config, buffers: Buffers, patches: Array, rng: Array) -> Buffers:
    """One step of online k-means with patches [B, N, P]; a code that is hardly used restarts at a
    random patch."""
    num_codes = config.num_codes
    decay = config.tokenizer_decay
    codebook = buffers["codebook"]
    x = patches.reshape(-1, patches.shape[-1])
    assigned = nearest_index(x, codebook, spherical=False)
    total = jax.ops.segment_sum(x, assigned, num_codes)
    count = jax.ops.segment_sum(jnp.ones(len(x)), assigned, num_codes)
    use = decay * buffers["use"] + (1 - decay) * count
    rate = ((1 - decay) / jnp.maximum(use, 1e-6))[:, None]
    moved = codebook + rate * (total - count[:, None] * codebook)
    restart = x[jax.random.randint(rng, (num_codes,), 0, len(x))]
    is_idle = use < 0.1 * len(x) / num_codes * (1 - decay)
    return {
        "codebook": jnp.where(is_idle[:, None], restart, moved),
        "use": jnp.where(is_idle, 1.0, use),
    }
