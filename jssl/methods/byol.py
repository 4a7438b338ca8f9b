"""BYOL: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning"
(Grill et al.; NeurIPS 2020; arXiv 2006.07733), section 3.1 and algorithm 1.

An online network (encoder, projector, predictor) predicts, from one view of an image, the output of
a target network (encoder, projector) for another view. The target's weights are a moving average of
the online network's. No other image is compared.

Reference code: google-deepmind/deepmind-research/byol. `jssl.nn.ema` describes when the average is
updated.
"""

import jax

from jssl.config import Config
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import byol_loss
from jssl.metrics import monitor_from_config
from jssl.nn import ema, heads
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = ema.KEYS


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    online = heads.chain(config, "head", "predictor")
    target = ema.teacher_from_config(config, online, "encoder", "head")

    def init(rng, batch):
        params, stats = online.init(rng, view(batch))
        return params, {"stats": stats} | target.init(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = online(params, state.buffers["stats"], x, train=True, rng=rng_net)
        target_out, buffers = target(state.buffers, x)
        return {"p": out["predictor"], "z": target_out["head"]}, buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        p_a, p_b = split_views(outputs["p"])
        z_a, z_b = split_views(outputs["z"])
        value = byol_loss(p_a, z_b) + byol_loss(p_b, z_a)
        metrics = monitor(state.step, z_a, z_b) | {"ema_decay": target.decay(state)}
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return online.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update=target.update)
