"""MoCo v2: "Momentum Contrast for Unsupervised Visual Representation Learning"
(He, Fan, Wu, Xie, Girshick; CVPR 2020; arXiv 1911.05722), algorithm 1, with the head, the
augmentation and the schedule of "Improved Baselines with Momentum Contrastive Learning"
(Chen, Fan, Girshick, He; 2020; arXiv 2003.04297).

A query is one view of an image. Its key is the other view, encoded by an EMA teacher. The query
must find its key among the keys of earlier batches, which are kept in a queue.

Reference code: facebookresearch/moco builder.py. BatchNorm statistics would reveal which key
belongs to which query. As there, keys are encoded in shuffled order, with statistics of parts of
the batch (`config.bn_splits`: the reference's number of GPUs). With `config.symmetric` each view is
query and key in turn, as in lightly's benchmark and the authors' CIFAR-10 notebook; the parts then
hold both views of their images.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError
from jssl.config.values import Count, Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.metrics import monitor_from_config
from jssl.nn import ema, heads
from jssl.nn.apply import EncoderWithHeads
from jssl.ops import enqueue, l2_normalize
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = ema.KEYS | {
    "temperature": Annotated[Positive, "divides the similarities (the paper's tau)"],
    "queue_size": Annotated[Count, "number of keys in the queue (the paper's K)"],
    "bn_splits": Annotated[
        Count, "parts of a batch with BatchNorm statistics of their own; 1: off"
    ],
    "symmetric": Annotated[
        bool, "each view is query and key in turn; False: the first view is the query"
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = with_split_norm(heads.chain(config, "head"), config)
    teacher = ema.teacher_from_config(config, net, "encoder", "head")
    width = config.head.features[-1]

    def init(rng, batch):
        rng_net, rng_queue = jax.random.split(rng)
        params, stats = net.init(rng_net, view(batch))
        queue = l2_normalize(jax.random.normal(rng_queue, (config.queue_size, width)))
        return params, {"stats": stats, "queue": queue} | teacher.init(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net, rng_shuffle = jax.random.split(rng, 3)
        x = train_views(rng_view, batch)
        x_q, x_k = (x, x) if config.symmetric else split_views(x)
        out, stats = net(params, state.buffers["stats"], x_q, train=True, rng=rng_net)
        if config.bn_splits > 1:  # images move between devices
            order = jax.random.permutation(rng_shuffle, len(x_k))
            teacher_out, buffers = teacher(state.buffers, x_k[order])
            keys = teacher_out["head"][jnp.argsort(order)]
        else:
            teacher_out, buffers = teacher(state.buffers, x_k)
            keys = teacher_out["head"]
        return {"q": out["head"], "k": l2_normalize(keys)}, buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        q = outputs["q"]
        k = outputs["k"]
        queue = state.buffers["queue"]
        other_view = jnp.arange(len(k)) ^ 1  # rows 2i and 2i + 1 are views of one image
        positives = k[other_view] if config.symmetric else k
        value, top1 = info_nce(q, positives, config.temperature, queue)
        metrics = monitor(state.step, q, positives)
        metrics |= {"contrastive_top1": top1, "ema_decay": teacher.decay(state)}
        return value, (state.buffers | {"queue": enqueue(queue, k)}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update=teacher.update)


def with_split_norm(net: EncoderWithHeads, config: Config) -> EncoderWithHeads:
    """`net` whose encoder takes BatchNorm statistics of ``config.bn_splits`` parts of the batch."""
    splits = config.bn_splits
    num_views = config.batch_size * (2 if config.symmetric else 1)
    if num_views // config.accumulate % splits:
        raise ConfigError(
            "config.bn_splits", splits, f"must divide the {num_views} views of a batch", "try 8"
        )
    if config.queue_size < num_views // config.accumulate:
        raise ConfigError(
            "config.queue_size",
            config.queue_size,
            f"must hold a batch's {num_views} keys",
            f"try {num_views}",
        )
    encoder = net.modules["encoder"]
    if splits > 1:
        if not hasattr(encoder, "bn_splits"):
            raise ConfigError(
                "config.bn_splits",
                splits,
                "needs a ResNet, as model.name",
                "set it to 1, or name one",
            )
        encoder = encoder.clone(bn_splits=splits)
    return net._replace(modules=net.modules | {"encoder": encoder})
