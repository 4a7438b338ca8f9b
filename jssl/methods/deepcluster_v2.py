"""DeepCluster v2: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(Caron, Misra, Mairal, Goyal, Bojanowski, Joulin; NeurIPS 2020; arXiv 2006.09882), appendix.

A bank keeps the embeddings of all images by their index. Every `config.cluster_every` steps, an
epoch as published, k-means groups the bank. Until the next time, each crop of an image must predict
the cluster of the image.

Embeddings are unit vectors and k-means is spherical. It runs for every number in `config.clusters`,
in turn on the bank of the first and of the second view. The logits of a crop are its products with
the centroids, which are not trained.

Reference code: facebookresearch/swav main_deepclusterv2.py. The bank starts empty. The first
`cluster_every` steps fill it and train nothing; the reference fills it in a pass over the data
before its first epoch. The recipe freezes all parameters for that time (`optim.freeze`). Without
the freeze, weight decay would change them.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config
from jssl.config.values import Count, Length, Positive, Steps, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import heads
from jssl.nn.bank import check_clusters, cluster_loss, cluster_usage, init_bank, write_bank
from jssl.ops import kmeans, l2_normalize
from jssl.transforms.views import eval_view, multi_crop, split_views

KEYS = {
    "clusters": Annotated[
        tuple[Width, ...],
        Length(1),
        "numbers of clusters: there is one k-means for each number",
    ],
    "cluster_every": Annotated[Steps, "steps between two clusterings"],
    "kmeans_iterations": Annotated[Count, "k-means iterations of each clustering"],
    "temperature": Annotated[
        Positive, "divides the similarities to the centroids (the paper's tau)"
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    clusters = config.clusters
    check_clusters("config.clusters", clusters, data_info.num_examples)
    crops = multi_crop(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")
    width = config.head.features[-1]

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        bank = init_bank(data_info.num_examples, width, "ab", len(clusters))
        centroids = {str(i): jnp.zeros((k, width)) for i, k in enumerate(clusters)}
        return params, {"stats": stats, "bank": bank, "centroids": centroids}

    def before_update(state, rng):
        is_due = (state.step > 0) & (state.step % config.cluster_every == 0)
        return lax.cond(is_due, cluster, lambda state, rng: state, state, rng)

    @jax.named_scope("cluster")
    def cluster(state, rng):
        bank = state.buffers["bank"]
        labels = []
        centroids = {}
        for i, k in enumerate(clusters):
            rng_i = jax.random.fold_in(rng, i)
            x = bank["ab"[i % 2]]
            seen = bank["seen"]
            centroids[str(i)], label = kmeans(
                rng_i, x, seen, k, config.kmeans_iterations, spherical=True
            )
            labels.append(jnp.where(seen > 0, label, -1))
        bank = bank | {"label": jnp.stack(labels, axis=1)}
        return state.replace(buffers=state.buffers | {"bank": bank, "centroids": centroids})

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        out, stats = net.multi_crop(params, state.buffers["stats"], x, rng_net)
        z = {size: l2_normalize(outputs["head"]) for size, outputs in out.items()}
        return z, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        bank = state.buffers["bank"]
        centroids = state.buffers["centroids"]
        labels = bank["label"][batch["index"]]  # [B, heads]
        losses = []
        for i in range(len(clusters)):
            weight = centroids[str(i)].T
            logits = {size: z @ weight / config.temperature for size, z in outputs.items()}
            losses.append(cluster_loss(logits, labels[:, i]))
        z_a, z_b = split_views(lax.stop_gradient(outputs["global"]))
        bank = write_bank(bank, batch["index"], {"a": z_a, "b": z_b})
        usage = cluster_usage(labels[:, 0], clusters[0])
        metrics = monitor(state.step, z_a, z_b)
        metrics["usage_entropy"] = entropy(usage[None])["usage_entropy"]
        value: Any = sum(losses) / len(losses)
        return value, (state.buffers | {"bank": bank}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update)
