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
from jssl.nn.apply import Chain


def build(config) -> Method:
    dtype, centre = config.model.dtype, augment.eval_view(config)
    view = bind(augment.view, config.augment, "augment", dtype=dtype)
    head = bind(heads.build, config.head, "head", dtype=dtype)
    net = Chain({"encoder": nn.encoder(config.model), "head": head})

    def init(rng, batch):
        return net.init(rng, centre(batch["image"], batch["size"]))

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        image, size = (jnp.repeat(batch[key], 2, axis=0) for key in ("image", "size"))
        views = view(rng_view, image, size)  # [2B, H, W, C]: the two views of an image in a row
        out, stats = net(params, state.buffers, views, train=True, rng=rng_net)
        z = out["head"]
        value, accuracy = nt_xent(z[0::2], z[1::2], config.temperature)
        return value, (stats, {"contrast_top1": accuracy})

    def embed(params, buffers, batch):
        images = centre(batch["image"], batch["size"])
        return net.first("encoder")(params, buffers, images, train=False)[0]["encoder"]

    return minimize(Objective(init, loss, embed), optim.from_config(config), config.accumulate)
