"""SimSiam: "Exploring Simple Siamese Representation Learning"
(Chen & He; CVPR 2021; arXiv 2011.10566), algorithm 1.

One network (encoder, projector) sees two views of an image; a predictor on one side must say what
comes out on the other, whose gradient is stopped. No negatives, no moving average: the stopped
gradient is what keeps the features from collapsing.

Reference code: facebookresearch/simsiam. There the predictor's learning rate does not fall
(section 4.2): `optim.lr_constant`; in lightly's benchmark it does.
"""

import jax

from jssl import metrics
from jssl.config import Config
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import byol_loss
from jssl.nn import heads
from jssl.transforms import views


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    net = heads.chain(config, "head", "predictor")

    def init(rng, batch):
        params, stats = net.init(rng, centre(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return {"p": out["predictor"], "z": out["head"]}, {"stats": stats}

    def loss(params, out, state, batch, rng):
        p, z = out["p"], out["z"]
        both = byol_loss(p[0::2], z[1::2]) + byol_loss(p[1::2], z[0::2])
        metrics = watch(state.step, z[0::2], z[1::2])
        return both / 4 - 1, (state.buffers, metrics)  # equation 2: half the negative cosines

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed)
