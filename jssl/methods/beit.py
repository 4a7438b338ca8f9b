"""BEiT: "BEiT: BERT Pre-Training of Image Transformers"
(Bao, Dong, Piao, Wei; ICLR 2022; arXiv 2106.08254), section 2, with another tokenizer.

Blocks of patches are hidden; the encoder must say which visual token, one of K, stood at each
hidden place. The loss is the cross-entropy at those places.

The paper's tokens are those of DALL-E's discrete VAE, weights from elsewhere. Here a codebook of
normalised patches is learned first, in the run itself, by k-means on a stream (a moving average of
each code's patches, as VQ-VAE's: van den Oord et al. 2017, appendix A.1): for
`config.tokenizer_steps` steps nothing else is trained (hold all parameters: `optim.freeze`, after
which Adam starts afresh), then the codebook stays.

Reference code for the rest: microsoft/unilm beit; weights start as there (`model.init="beit"`).
Differences: no layer scale, no relative position bias; the blocks' sizes, see `masking.block_mask`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config
from jssl.config.values import Every, Part, Positive, Rate, Width
from jssl.core import DatasetInfo, Objective
from jssl.losses import cross_entropy
from jssl.methods.mae import normalise
from jssl.metrics import entropy, watcher
from jssl.nn import masked_image
from jssl.nn.apply import apply, init
from jssl.ops import nearest_index, patchify
from jssl.transforms.masking import beit_mask, mask_to_indices

KEYS = {
    "codes": Width,
    "block_min": Positive,
    "mask_ratio": Part,
    "tokenizer_steps": Every,
    "tokenizer_decay": Rate,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    one, watch = masked_image.Setup(config), watcher(config)
    encoder, codes, waits = one.encoder, config.codes, config.tokenizer_steps
    count = masked_image.num_masked(config.mask_ratio, one.grid**2)

    def start(rng, batch):
        rng_f, rng_token, rng_head, rng_codes = jax.random.split(rng, 4)
        params, _ = init(encoder, rng_f, one.centre(batch))
        params = {"encoder": params, "head": one.dense(rng_head, encoder.dim, codes)}
        params["mask_token"] = one.token(rng_token)
        book = jax.random.normal(rng_codes, (codes, one.pixels))
        return params, {"codebook": book, "use": jnp.ones(codes)}

    def learn(buffers, patches, rng):
        """One step of k-means on a stream; a code that is hardly used restarts at some patch."""
        x = patches.reshape(-1, one.pixels)
        found = nearest_index(x, buffers["codebook"], spherical=False)
        total, seen = (jax.ops.segment_sum(y, found, codes) for y in (x, jnp.ones(len(x))))
        decay = config.tokenizer_decay
        use = decay * buffers["use"] + (1 - decay) * seen
        rate = ((1 - decay) / jnp.maximum(use, 1e-6))[:, None]
        book = buffers["codebook"] + rate * (total - seen[:, None] * buffers["codebook"])
        some = x[jax.random.randint(rng, (codes,), 0, len(x))]
        idle = use < 0.1 * len(x) / codes * (1 - decay)
        return {"codebook": jnp.where(idle[:, None], some, book), "use": jnp.where(idle, 1.0, use)}

    def hidden_from(rng, images):
        return beit_mask(rng, len(images), one.grid, count, config.block_min, count)

    def logits(params, tokens):
        return tokens.astype(jnp.float32) @ params["head"]["kernel"] + params["head"]["bias"]

    def loss(params, state, batch, rng):
        rng_view, rng_mask, rng_net, rng_codes = jax.random.split(rng, 4)
        images = one.view(rng_view, batch["image"], batch["size"])
        patches, buffers = normalise(patchify(images, encoder.patch))[0], state.buffers
        mask = hidden_from(rng_mask, images)
        at = mask_to_indices(mask, count)[..., None]
        wanted = jnp.take_along_axis(patches, at, axis=1).reshape(-1, one.pixels)
        answer = nearest_index(wanted, buffers["codebook"], spherical=False)
        hide, rngs = (mask, params["mask_token"]), {"drop_path": rng_net}
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=True, hide=hide, rngs=rngs)
        hidden = jnp.take_along_axis(tokens[:, encoder.class_token :], at, axis=1)
        hidden = hidden.reshape(-1, encoder.dim)
        value, top1 = cross_entropy(logits(params, hidden), answer)
        learning = state.step < waits
        keep = lambda buffers, patches, rng: buffers
        buffers = lax.cond(learning, learn, keep, buffers, patches, rng_codes)
        used = jnp.bincount(answer, length=codes) / len(answer)
        metrics = watch(state.step, encoder.features(tokens)) | {"token_top1": top1}
        metrics["usage_entropy"] = entropy(used[None])["usage_entropy"]
        return value, (buffers, metrics)

    def embed(params, buffers, batch):
        return one.embed(params, batch)

    def render(params, buffers, batch, rng):
        """original | masked | the likeliest codes, with the true mean and deviation of each patch,
        which codes do not have."""
        images = one.centre(batch)
        mask = hidden_from(rng, images)
        hide = (mask, params["mask_token"])
        tokens, _ = apply(encoder, params["encoder"], {}, images, train=False, hide=hide)
        guess = logits(params, tokens[:, encoder.class_token :]).argmax(-1)
        patches = patchify(images, encoder.patch)
        _, mean, deviation = normalise(patches)
        return {"masked": one.picture(patches, mask, buffers["codebook"][guess] * deviation + mean)}

    return Objective(start, loss, embed, render)
