"""SwAV: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(Caron, Misra, Mairal, Goyal, Bojanowski, Joulin; NeurIPS 2020; arXiv 2006.09882), algorithm 1.

Views are compared with trained prototypes. The soft assignment of one view, made so that a batch
uses all prototypes equally (Sinkhorn-Knopp), must be predicted from every other crop of the image.

Reference code: facebookresearch/swav main_swav.py. As there, prototypes are put back on the unit
sphere before each update, and stay as drawn at first: `optim.freeze`. From `config.queue_start` on,
`config.queue` embeddings of earlier batches join in the assignment, where a batch is smaller than
the number of prototypes; they are collected from the start, so that the queue is full by then.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config, UserError
from jssl.config.values import Count, Every, Positive, Whole, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import soft_cross_entropy
from jssl.metrics import entropy, watcher
from jssl.nn import heads
from jssl.ops import enqueue, l2_normalize, sinkhorn
from jssl.transforms import views

KEYS = {
    "temperature": Positive,
    "epsilon": Positive,
    "sinkhorn": Count,
    "prototypes": Width,
    "queue": Whole,
    "queue_start": Every,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    crops, centre, watch = views.multi_crop(config), views.eval_view(config), watcher(config)
    if config.queue < 0:
        raise UserError(f"config.queue={config.queue} must be at least 0; 0 is no queue")
    net, width, begins = heads.chain(config, "head"), config.head.features[-1], config.queue_start

    def init(rng, batch):
        rng_net, rng_w = jax.random.split(rng)
        params, stats = net.init(rng_net, centre(batch))
        params["prototypes"] = on_sphere(jax.random.normal(rng_w, (width, config.prototypes)))
        queue = {name: jnp.zeros((config.queue, width)) for name in "ab"} if config.queue else {}
        return params, {"stats": stats, "queue": queue}

    def before_update(state, rng):
        params = state.params | {"prototypes": on_sphere(state.params["prototypes"])}
        return state.replace(params=params)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        said, stats = net.multi(params, state.buffers["stats"], x, rng_net)
        return {name: l2_normalize(out["head"]) for name, out in said.items()}, state.buffers | {
            "stats": stats
        }

    def assign(z, queue, prototypes, step):
        """Codes [B, K] of z [B, D], with the queue's rows, if there are any, in the balance."""
        code = lambda z: sinkhorn(z @ prototypes, config.epsilon, config.sinkhorn)
        if queue is None:
            return code(z)
        joined = lambda: code(jnp.concatenate([queue, z]))[len(queue) :]
        return lax.cond(step >= begins, joined, lambda: code(z))

    def loss(params, found, state, batch, rng):
        queue, w = state.buffers["queue"], params["prototypes"]
        z = {"a": found["global"][0::2], "b": found["global"][1::2]}
        codes = {
            name: assign(*lax.stop_gradient((z[name], queue.get(name), w)), state.step)
            for name in z
        }
        predict = lambda z, code: soft_cross_entropy(z @ w / config.temperature, code)
        value, terms = predict(z["a"], codes["b"]) + predict(z["b"], codes["a"]), 2
        if "local" in found:
            count = len(found["local"]) // len(z["a"])
            both = jnp.repeat(codes["a"] + codes["b"], count, axis=0)
            value, terms = value + count * predict(found["local"], both), 2 + 2 * count
        metrics = watch(state.step, z["a"], z["b"]) | entropy(codes["a"])
        queue = {name: enqueue(queue[name], z[name]) for name in queue}
        return value / terms, (state.buffers | {"queue": queue}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update)


def on_sphere(w):
    """Columns of w [D, K] as unit vectors."""
    return l2_normalize(w.T).T
