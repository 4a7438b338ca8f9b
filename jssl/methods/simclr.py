"""SimCLR: "A Simple Framework for Contrastive Learning of Visual Representations"
(Chen, Kornblith, Norouzi, Hinton; ICML 2020; arXiv 2002.05709), algorithm 1.

Two random views of each image; a network f and a projection head g; the loss asks of each
z = g(f(view)) to find the z of the other view of its image among all others of the global batch.
What is kept afterwards is f.

Reference code: google-research/simclr (tf2/model.py, tf2/objective.py). As there, both views go
through the network as one batch of 2B, so BatchNorm sees them together (lightly runs them one after
the other). Head: Dense-BN-ReLU-Dense-BN; `config.head` says which of its last layer learns a bias.
"""

import jax
import jax.numpy as jnp

from jssl import augment, nn, optim
from jssl.config import bind
from jssl.core import Method, Objective, minimize
from jssl.losses import nt_xent
from jssl.nn import heads
from jssl.nn.apply import apply, init


def build(config) -> Method:
    view = bind(augment.view, config.augment, "augment", dtype=config.model.dtype)
    centre = augment.center(
        size=config.eval.size or config.augment.size, crop=config.eval.crop,
        mean=config.augment.mean, std=config.augment.std, dtype=config.model.dtype,
    )  # fmt: skip
    encoder = nn.encoder(config.model)
    head = bind(heads.build, config.head, "head", dtype=config.model.dtype)

    def start(rng, batch):
        rng_f, rng_g = jax.random.split(rng)
        images = centre(batch["image"], batch["size"])
        f, f_stats = init(encoder, rng_f, images)
        h = jax.eval_shape(lambda: encode(f, f_stats, images, train=False)[0])
        g, g_stats = init(head, rng_g, jnp.zeros(h.shape, h.dtype))
        return {"encoder": f, "head": g}, {"encoder": f_stats, "head": g_stats}

    def encode(params, stats, images, train, rng=None):
        rngs = {"drop_path": rng} if train else None
        out, stats = apply(encoder, params, stats, images, train=train, rngs=rngs)
        return encoder.features(out), stats

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        image, size = (jnp.repeat(batch[key], 2, axis=0) for key in ("image", "size"))
        views = view(rng_view, image, size)  # [2B, H, W, C]: the two views of an image in a row
        h, f_stats = encode(params["encoder"], state.buffers["encoder"], views, True, rng_net)
        z, g_stats = apply(head, params["head"], state.buffers["head"], h, train=True)
        value, accuracy = nt_xent(z[0::2], z[1::2], config.temperature)
        return value, ({"encoder": f_stats, "head": g_stats}, {"contrast_top1": accuracy})

    def embed(params, buffers, batch):
        images = centre(batch["image"], batch["size"])
        return encode(params["encoder"], buffers["encoder"], images, train=False)[0]

    return minimize(Objective(start, loss, embed), optim.from_config(config), config.accumulate)
