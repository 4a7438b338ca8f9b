"""Barlow Twins: "Self-Supervised Learning via Redundancy Reduction"
(Zbontar, Jing, Misra, LeCun, Deny; ICML 2021; arXiv 2103.03230), algorithm 1.

Two views of each image go through one network; over the batch, each output feature of one view
should correlate with itself in the other view, and with no other feature.

Reference code: facebookresearch/barlowtwins main.py.
"""

import jax
import jax.numpy as jnp

from jssl import augment, nn, optim
from jssl.config import bind
from jssl.core import Method, Objective, minimize
from jssl.losses import barlow
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
        return barlow(z[0::2], z[1::2], config.off_diagonal), (stats, {})

    def embed(params, buffers, batch):
        images = centre(batch["image"], batch["size"])
        return net.first("encoder")(params, buffers, images, train=False)[0]["encoder"]

    return minimize(Objective(init, loss, embed), optim.from_config(config), config.accumulate)
