"""NNCLR: "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
Representations" (Dwibedi, Aytar, Tompson, Sermanet, Zisserman; ICCV 2021; arXiv 2104.14548),
section 3.2 and appendix A.

As SimCLR, but the positive of a view is not the other view's own embedding: it is the nearest
neighbour of that in a queue of embeddings of earlier images, so that it comes from another image.

No code was published with the paper. Equation 3: the negatives of a neighbour are the predictions
of the same view of the other images (lightly's benchmark uses NT-Xent over both views instead).
"""

import jax
import jax.numpy as jnp
from jax import lax

from jssl import metrics
from jssl.config import Config, UserError
from jssl.config.values import Count, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.nn import heads
from jssl.ops import enqueue, l2_normalize, nearest_index
from jssl.transforms import views

KEYS = {
    "temperature": Positive,
    "queue": Count,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    net, width = heads.chain(config, "head", "predictor"), config.head.features[-1]
    if config.queue < config.batch_size:
        raise UserError(f"config.queue={config.queue} must hold a batch; try {config.batch_size}")

    def init(rng, batch):
        rng_net, rng_queue = jax.random.split(rng)
        params, stats = net.init(rng_net, centre(batch))
        queue = l2_normalize(jax.random.normal(rng_queue, (config.queue, width)))
        return params, {"stats": stats, "queue": queue}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        z, p = l2_normalize(out["head"]), out["predictor"]
        return {"z": z, "p": p}, state.buffers | {"stats": stats}

    def loss(params, out, state, batch, rng):
        z, p, queue = lax.stop_gradient(out["z"]), out["p"], state.buffers["queue"]
        friend = nearest_index(z, queue, spherical=True)
        neighbour = queue[friend]
        one, top1 = info_nce(neighbour[0::2], p[1::2], config.temperature)
        other, top1_other = info_nce(neighbour[1::2], p[0::2], config.temperature)
        metrics = watch(state.step, z[0::2], z[1::2])
        metrics["contrast_top1"] = (top1 + top1_other) / 2
        metrics["friends_agree"] = (friend[0::2] == friend[1::2]).mean(dtype=jnp.float32)
        buffers = state.buffers | {"queue": enqueue(queue, z[0::2])}
        return (one + other) / 2, (buffers, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed)
