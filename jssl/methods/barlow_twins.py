"""Barlow Twins: "Self-Supervised Learning via Redundancy Reduction"
(Zbontar, Jing, Misra, LeCun, Deny; ICML 2021; arXiv 2103.03230), algorithm 1.

Two views of each image pass through one network. Over the batch, each output feature of one view
should correlate with itself in the other view, and with no other feature.

Reference code: facebookresearch/barlowtwins main.py. `config.lambda_` is the paper's lambda.
`config.loss_scale` multiplies the loss: 1 in the paper, 0.1 in solo-learn, whose learning rates
depend on it.
"""

from typing import Annotated

import jax

from jssl.config import Config
from jssl.config.values import NonNegative, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import barlow_twins
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = {
    "lambda_": Annotated[NonNegative, "weight of the off-diagonal terms (the paper's lambda)"],
    "loss_scale": Annotated[Positive, "factor of the loss; 1 in the paper"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return out["head"], {"stats": stats}

    def loss(params, z, state, batch, rng):
        z_a, z_b = split_views(z)
        value = config.loss_scale * barlow_twins(z_a, z_b, config.lambda_)
        return value, (state.buffers, monitor(state.step, z_a, z_b))

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
