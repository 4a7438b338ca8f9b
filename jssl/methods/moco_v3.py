"""MoCo v3: "An Empirical Study of Training Self-Supervised Vision Transformers"
(Chen, Xie, He; ICCV 2021; arXiv 2104.02057), algorithm 1.

Two views of each image; a network with a predictor makes queries of both, a slowly moving copy
without it makes keys. Each query must find the key of the other view among the keys of its batch;
there is no queue.

Reference code: facebookresearch/moco-v3 moco/builder.py. As there, the loss has the factor 2 tau.
A ViT's patch projection stays as it was drawn (section 4.1): `optim.freeze`.
"""

import jax

from jssl import metrics
from jssl.config import Config
from jssl.config.values import Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.nn import ema, heads
from jssl.transforms import views

KEYS = ema.KEYS | {
    "temperature": Positive,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    online, tau = heads.chain(config, "head", "predictor"), config.temperature
    slow = ema.teacher_from_config(config, online, "encoder", "head")

    def init(rng, batch):
        params, stats = online.init(rng, centre(batch))
        return params, {"stats": stats} | slow.start(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = online(params, state.buffers["stats"], x, train=True, rng=rng_net)
        told, buffers = slow(state.buffers, x)
        return {"q": out["predictor"], "k": told["head"]}, buffers | {"stats": stats}

    def loss(params, out, state, batch, rng):
        q, k = out["q"], jax.lax.stop_gradient(out["k"])
        one, top1 = info_nce(q[0::2], k[1::2], tau)
        other, top1_other = info_nce(q[1::2], k[0::2], tau)
        metrics = watch(state.step, k[0::2], k[1::2]) | {"ema": slow.now(state)}
        metrics["contrast_top1"] = (top1 + top1_other) / 2
        return 2 * tau * (one + other), (state.buffers, metrics)

    def embed(params, buffers, batch):
        return online.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update=slow.follow)
