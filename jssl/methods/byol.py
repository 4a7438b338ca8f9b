"""BYOL: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning"
(Grill et al.; NeurIPS 2020; arXiv 2006.07733), section 3.1 and algorithm 1.

An online network (encoder, projector, predictor) predicts from one view of an image what a target
network (encoder, projector) says of another. The target's weights are a moving average of the
online network's; no other image is compared with.

Reference code: google-deepmind/deepmind-research/byol. The moving average goes first: with a target
that starts as the online network, averaging before the forward pass gives the sequence of targets
that averaging after the update gives; the saved target is one update behind.
"""

import jax
import jax.numpy as jnp

from jssl import augment, nn, optim
from jssl.config import bind
from jssl.core import Method, Objective, minimize
from jssl.losses import regression
from jssl.nn import heads
from jssl.nn.apply import Chain
from jssl.ops import cosine, ema

TARGET = ("encoder", "head")


def build(config) -> Method:
    dtype, centre = config.model.dtype, augment.eval_view(config)
    first = dict(config.augment)
    views = [
        bind(augment.view, section, "augment", dtype=dtype)
        for section in (first, first | dict(config.augment_b))
    ]
    online = Chain(
        {
            "encoder": nn.encoder(config.model),
            "head": bind(heads.build, config.head, "head", dtype=dtype),
            "predictor": heads.predictor(config),
        }
    )
    target = online.first(*TARGET)

    def init(rng, batch):
        params, stats = online.init(rng, centre(batch["image"], batch["size"]))
        copy = lambda tree: {name: jax.tree.map(jnp.copy, tree[name]) for name in TARGET}
        return params, {"online": stats, "target": copy(params), "target_stats": copy(stats)}

    def loss(params, state, batch, rng):
        rng_a, rng_b, rng_net = jax.random.split(rng, 3)
        a, b = (
            view(key, batch["image"], batch["size"])
            for view, key in zip(views, (rng_a, rng_b), strict=True)
        )
        x = jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])  # [2B, ...]: pairs in a row
        decay = cosine(state.step, config.steps, config.ema, config.ema_final)
        slow = ema(state.buffers["target"], {name: params[name] for name in TARGET}, decay)
        out, stats = online(params, state.buffers["online"], x, train=True, rng=rng_net)
        told, slow_stats = target(slow, state.buffers["target_stats"], x, train=True, rng=rng_net)
        p, z = out["predictor"], told["head"]
        value = regression(p[0::2], z[1::2]) + regression(p[1::2], z[0::2])
        buffers = {"online": stats, "target": slow, "target_stats": slow_stats}
        return value, (buffers, {"ema": decay.astype(jnp.float32)})

    def embed(params, buffers, batch):
        images = centre(batch["image"], batch["size"])
        found, _ = online.first("encoder")(params, buffers["online"], images, train=False)
        return found["encoder"]

    return minimize(Objective(init, loss, embed), optim.from_config(config), config.accumulate)
