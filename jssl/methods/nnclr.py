"""NNCLR: "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
Representations" (Dwibedi, Aytar, Tompson, Sermanet, Zisserman; ICCV 2021; arXiv 2104.14548),
section 3.2 and appendix A.

As SimCLR, but the positive of a view is not the other view's own embedding. It is that embedding's
nearest neighbor in a queue of embeddings of earlier images, so it comes from another image.

No code was published with the paper. Equation 3: the negatives of a neighbor are the predictions
of the same view of the other images (lightly's benchmark uses NT-Xent over both views instead).
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config, ConfigError
from jssl.config.values import Count, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.ops import enqueue, l2_normalize, nearest_index
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = {
    "temperature": Annotated[Positive, "divides the similarities (the paper's tau)"],
    "queue_size": Annotated[Count, "number of embeddings in the queue (the paper's support set Q)"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    if config.queue_size < config.batch_size:
        raise ConfigError(
            "config.queue_size", config.queue_size, "must hold a batch", f"try {config.batch_size}"
        )
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head", "predictor")
    width = config.head.features[-1]

    def init(rng, batch):
        rng_net, rng_queue = jax.random.split(rng)
        params, stats = net.init(rng_net, view(batch))
        queue = l2_normalize(jax.random.normal(rng_queue, (config.queue_size, width)))
        return params, {"stats": stats, "queue": queue}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        outputs = {"z": l2_normalize(out["head"]), "p": out["predictor"]}
        return outputs, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        queue = state.buffers["queue"]
        z = lax.stop_gradient(outputs["z"])
        index_a, index_b = split_views(nearest_index(z, queue, spherical=True))
        z_a, z_b = split_views(z)
        p_a, p_b = split_views(outputs["p"])
        loss_a, top1_a = info_nce(queue[index_a], p_b, config.temperature)
        loss_b, top1_b = info_nce(queue[index_b], p_a, config.temperature)
        metrics = monitor(state.step, z_a, z_b)
        metrics["contrastive_top1"] = (top1_a + top1_b) / 2
        metrics["neighbor_agreement"] = (index_a == index_b).mean(dtype=jnp.float32)
        buffers = state.buffers | {"queue": enqueue(queue, z_a)}
        return (loss_a + loss_b) / 2, (buffers, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
