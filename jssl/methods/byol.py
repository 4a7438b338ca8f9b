"""BYOL: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning"
(Grill et al.; NeurIPS 2020; arXiv 2006.07733), section 3.1 and algorithm 1.

An online network (encoder, projector, predictor) predicts from one view of an image what a target
network (encoder, projector) says of another. The target's weights are a moving average of the
online network's; no other image is compared with.

Reference code: google-deepmind/deepmind-research/byol. When the average is taken: `jssl.nn.ema`.
"""

import jax

from jssl import metrics
from jssl.config import Config
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import byol_loss
from jssl.nn import ema, heads
from jssl.transforms import views

KEYS = ema.KEYS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    online = heads.chain(config, "head", "predictor")
    slow = ema.teacher_from_config(config, online, "encoder", "head")

    def init(rng, batch):
        params, stats = online.init(rng, centre(batch))
        return params, {"stats": stats} | slow.start(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = online(params, state.buffers["stats"], x, train=True, rng=rng_net)
        told, buffers = slow(state.buffers, x)
        return {"p": out["predictor"], "z": told["head"]}, buffers | {"stats": stats}

    def loss(params, out, state, batch, rng):
        p, z = out["p"], out["z"]
        value = byol_loss(p[0::2], z[1::2]) + byol_loss(p[1::2], z[0::2])
        metrics = watch(state.step, z[0::2], z[1::2])
        return value, (state.buffers, metrics | {"ema": slow.now(state)})

    def embed(params, buffers, batch):
        return online.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update=slow.follow)
