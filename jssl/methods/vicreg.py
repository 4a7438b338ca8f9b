"""VICReg: "Variance-Invariance-Covariance Regularization for Self-Supervised Learning"
(Bardes, Ponce, LeCun; ICLR 2022; arXiv 2105.04906), algorithm 1.

Two views of each image should have the same embedding (invariance), each feature should vary over
the batch (variance), and no two features should vary together (covariance).

Reference code: facebookresearch/vicreg main_vicreg.py.
"""

from typing import Annotated

import jax

from jssl.config import Config
from jssl.config.values import NonNegative
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import vicreg
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = {
    "invariance": Annotated[NonNegative, "weight of the invariance term (the paper's lambda)"],
    "variance": Annotated[NonNegative, "weight of the variance term (the paper's mu)"],
    "covariance": Annotated[NonNegative, "weight of the covariance term (the paper's nu)"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")
    weights = (config.invariance, config.variance, config.covariance)

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
        value, terms = vicreg(z_a, z_b, *weights)
        return value, (state.buffers, monitor(state.step, z_a, z_b) | terms)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
