"""Barlow Twins: "Self-Supervised Learning via Redundancy Reduction"
(Zbontar, Jing, Misra, LeCun, Deny; ICML 2021; arXiv 2103.03230), algorithm 1.

Two views of each image go through one network; over the batch, each output feature of one view
should correlate with itself in the other view, and with no other feature.

Reference code: facebookresearch/barlowtwins main.py. `config.scale` multiplies the loss: 1 in the
paper, 0.1 at solo-learn, whose learning rates go with it.
"""

import jax

from jssl import metrics
from jssl.config import Config
from jssl.config.values import NonNegative, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import barlow_twins
from jssl.nn import heads
from jssl.transforms import views

KEYS = {
    "off_diagonal": NonNegative,
    "scale": Positive,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    net = heads.chain(config, "head")

    def init(rng, batch):
        params, stats = net.init(rng, centre(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return out["head"], {"stats": stats}

    def loss(params, z, state, batch, rng):
        value = config.scale * barlow_twins(z[0::2], z[1::2], config.off_diagonal)
        return value, (state.buffers, watch(state.step, z[0::2], z[1::2]))

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed)
