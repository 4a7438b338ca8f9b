"""MoCo v2: "Momentum Contrast for Unsupervised Visual Representation Learning"
(He, Fan, Wu, Xie, Girshick; CVPR 2020; arXiv 1911.05722), algorithm 1, with the head, the
augmentation and the schedule of "Improved Baselines with Momentum Contrastive Learning"
(Chen, Fan, Girshick, He; 2020; arXiv 2003.04297).

A query, one view of an image, must find its key, the other view as a slowly moving copy of the
network encodes it, among the keys of earlier batches, which a queue remembers.

Reference code: facebookresearch/moco builder.py. BatchNorm would tell which key belongs to which
query; as there, keys are encoded in shuffled order, with statistics by parts of the batch
(`config.bn_splits`: the reference's number of GPUs). `config.symmetric`: each view is query and key
in turn, as in lightly's benchmark and the authors' CIFAR-10 notebook; the parts then hold both
views of their images.
"""

import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config, UserError
from jssl.config.values import Count, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.nn import ema, heads
from jssl.ops import enqueue, l2_normalize
from jssl.transforms import views

KEYS = ema.KEYS | {
    "temperature": Positive,
    "queue": Count,
    "bn_splits": Count,
    "symmetric": bool,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    net, both = split_norm(heads.chain(config, "head"), config), config.symmetric
    slow = ema.teacher_from_config(config, net, "encoder", "head")
    width = config.head.features[-1]

    def init(rng, batch):
        rng_net, rng_queue = jax.random.split(rng)
        params, stats = net.init(rng_net, centre(batch))
        queue = l2_normalize(jax.random.normal(rng_queue, (config.queue, width)))
        return params, {"stats": stats, "queue": queue} | slow.start(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net, rng_shuffle = jax.random.split(rng, 3)
        x = pair(rng_view, batch)
        queries, keys = (x, x) if both else (x[0::2], x[1::2])
        out, stats = net(params, state.buffers["stats"], queries, train=True, rng=rng_net)
        if config.bn_splits > 1:  # images cross devices for it
            order = jax.random.permutation(rng_shuffle, len(keys))
            told, buffers = slow(state.buffers, keys[order])
            k = l2_normalize(told["head"])[jnp.argsort(order)]
        else:
            told, buffers = slow(state.buffers, keys)
            k = l2_normalize(told["head"])
        return {"q": out["head"], "k": k}, buffers | {"stats": stats}

    def loss(params, out, state, batch, rng):
        q, k, queue = out["q"], out["k"], state.buffers["queue"]
        partner = jnp.arange(len(k)) ^ 1 if both else slice(None)  # the other view of the image
        value, top1 = info_nce(q, k[partner], config.temperature, queue)
        metrics = watch(state.step, q, k[partner]) | {"contrast_top1": top1, "ema": slow.now(state)}
        return value, (state.buffers | {"queue": enqueue(queue, k)}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update=slow.follow)


def split_norm(net, config):
    """`net` with the encoder's BatchNorm in ``config.bn_splits`` parts of the batch."""
    splits, rows = config.bn_splits, config.batch_size * (2 if config.symmetric else 1)
    if rows // config.accumulate % splits:
        raise UserError(f"config.bn_splits={splits} must divide the {rows} views of a batch; try 8")
    if config.queue < rows // config.accumulate:
        raise UserError(f"config.queue={config.queue} must hold a batch's {rows} keys; try {rows}")
    encoder = net.modules["encoder"]
    if splits > 1:
        if not hasattr(encoder, "bn_splits"):
            raise UserError(
                f"config.bn_splits={splits} needs a ResNet, as model.name; or set it to 1"
            )
        encoder = encoder.clone(bn_splits=splits)
    return net._replace(modules=net.modules | {"encoder": encoder})
