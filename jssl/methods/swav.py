"""SwAV: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(Caron, Misra, Mairal, Goyal, Bojanowski, Joulin; NeurIPS 2020; arXiv 2006.09882), algorithm 1.

Views are compared with trained prototypes. The soft assignment of one view is computed so that a
batch uses all prototypes equally (Sinkhorn-Knopp). It must be predicted from every other crop of
the image.

Reference code: facebookresearch/swav main_swav.py. As there, prototypes are normalized to the unit
sphere before each update, and are frozen at first: `optim.freeze`. Where a batch is smaller than
the number of prototypes, `config.queue_size` embeddings of earlier batches take part in the
assignment from `config.queue_start` on. They are collected from the start, so the queue is full by
then.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Count, Every, Positive, Whole, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import soft_cross_entropy
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import heads
from jssl.ops import enqueue, l2_normalize, sinkhorn
from jssl.transforms.views import eval_view, multi_crop, split_views

KEYS = {
    "temperature": Annotated[Positive, "divides the scores of the prototypes (the paper's tau)"],
    "epsilon": Annotated[
        Positive, "divides the scores in the Sinkhorn assignment (the paper's epsilon)"
    ],
    "sinkhorn_iterations": Annotated[Count, "iterations of Sinkhorn-Knopp"],
    "num_prototypes": Annotated[Width, "number of prototypes (the paper's K)"],
    "queue_size": Annotated[Whole, "embeddings of earlier batches in each assignment; 0: off"],
    "queue_start": Annotated[Every, "first step at which the queue takes part in the assignment"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    crops = multi_crop(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")
    width = config.head.features[-1]

    def init(rng, batch):
        rng_net, rng_prototypes = jax.random.split(rng)
        params, stats = net.init(rng_net, view(batch))
        prototypes_DK = jax.random.normal(rng_prototypes, (width, config.num_prototypes))
        params["prototypes"] = normalize_columns(prototypes_DK)
        queue = {}
        if config.queue_size:
            queue = {name: jnp.zeros((config.queue_size, width)) for name in "ab"}
        return params, {"stats": stats, "queue": queue}

    def normalize_prototypes(state, rng):
        prototypes = normalize_columns(state.params["prototypes"])
        return state.replace(params=state.params | {"prototypes": prototypes})

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        out, stats = net.multi_crop(params, state.buffers["stats"], x, rng_net)
        z = {size: l2_normalize(outputs["head"]) for size, outputs in out.items()}
        return z, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        queue = state.buffers["queue"]
        prototypes_DK = params["prototypes"]
        z_a, z_b = split_views(outputs["global"])
        codes_a = codes(config, z_a, queue.get("a"), prototypes_DK, state.step)
        codes_b = codes(config, z_b, queue.get("b"), prototypes_DK, state.step)

        def predict(z, target):
            return soft_cross_entropy(z @ prototypes_DK / config.temperature, target)

        value = predict(z_a, codes_b) + predict(z_b, codes_a)
        num_terms = 2
        if "local" in outputs:
            num_local = len(outputs["local"]) // len(z_a)
            both = jnp.repeat(codes_a + codes_b, num_local, axis=0)
            value = value + num_local * predict(outputs["local"], both)
            num_terms = 2 + 2 * num_local
        metrics = monitor(state.step, z_a, z_b) | entropy(codes_a)
        if queue:
            queue = {"a": enqueue(queue["a"], z_a), "b": enqueue(queue["b"], z_b)}
        return value / num_terms, (state.buffers | {"queue": queue}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update=normalize_prototypes)


def codes(
    config: Config, z_BD: Array, queue_QD: Array | None, prototypes_DK: Array, step: Array
) -> Array:
    """Codes [B, K] of z, balanced together with the rows of the queue, if there is one.

    No gradient flows.
    """
    z_BD = lax.stop_gradient(z_BD)
    prototypes_DK = lax.stop_gradient(prototypes_DK)

    def assign(z):
        return sinkhorn(z @ prototypes_DK, config.epsilon, config.sinkhorn_iterations)

    if queue_QD is None:
        return assign(z_BD)

    def with_queue():
        return assign(jnp.concatenate([queue_QD, z_BD]))[len(queue_QD) :]

    return lax.cond(step >= config.queue_start, with_queue, lambda: assign(z_BD))


def normalize_columns(prototypes_DK: Array) -> Array:
    """Each column as a unit vector."""
    return l2_normalize(prototypes_DK.T).T
