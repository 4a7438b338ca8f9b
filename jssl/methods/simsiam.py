"""SimSiam: "Exploring Simple Siamese Representation Learning"
(Chen & He; CVPR 2021; arXiv 2011.10566), algorithm 1.

One network (encoder, projector) sees two views of an image. A predictor on one side predicts the
output of the other side, whose gradient is stopped. There are no negatives and no moving average:
the stopped gradient keeps the features from collapsing.

Reference code: facebookresearch/simsiam. There the predictor's learning rate does not fall
(section 4.2): `optim.lr_constant`; in lightly's benchmark it does.
"""

import jax

from jssl.config import Config
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import byol_loss
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.transforms.views import eval_view, split_views, two_views


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head", "predictor")

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return {"p": out["predictor"], "z": out["head"]}, {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        p_a, p_b = split_views(outputs["p"])
        z_a, z_b = split_views(outputs["z"])
        both = byol_loss(p_a, z_b) + byol_loss(p_b, z_a)
        value = both / 4 - 1  # equation 2: half the negative cosines
        return value, (state.buffers, monitor(state.step, z_a, z_b))

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
