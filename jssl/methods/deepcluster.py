"""DeepCluster: "Deep Clustering for Unsupervised Learning of Visual Features"
(Caron, Bojanowski, Joulin, Douze; ECCV 2018; arXiv 1807.05520).

A bank keeps the encoder's features of all images by their index. Every `config.cluster_every`
steps, an epoch as published, the features are whitened by PCA to `config.pca_dims` dimensions and
normalized, and k-means groups them. Until the next time, a linear classifier, drawn anew, must
predict the cluster of each image.

Reference code: facebookresearch/deepcluster main.py. Not done here: its Sobel filter, its sampling
of images evenly over clusters, features of an unaugmented pass, and an optimizer of its own for the
classifier (the old classifier's momentum stays).

The bank starts empty: the first `cluster_every` steps only fill it and train nothing. The recipe
freezes all parameters for that time (`optim.freeze`); a recipe that does not lets weight decay
change them.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Count, Steps, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import heads
from jssl.nn.bank import check_clusters, cluster_loss, cluster_usage, init_bank, write_bank
from jssl.ops import kmeans, l2_normalize, whiten
from jssl.transforms.views import eval_view, multi_crop, split_views

KEYS = {
    "num_clusters": Annotated[Width, "number of clusters of k-means"],
    "cluster_every": Annotated[Steps, "steps between two clusterings"],
    "kmeans_iterations": Annotated[Count, "k-means iterations of each clustering"],
    "pca_dims": Annotated[Width, "number of principal components that are clustered"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    num_clusters = config.num_clusters
    check_clusters("config.num_clusters", num_clusters, data_info.num_examples)
    crops = multi_crop(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config)

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        width = jax.eval_shape(lambda: net.embed(params, stats, view(batch))).shape[-1]
        params["classifier"] = init_classifier(rng, width, num_clusters)
        bank = init_bank(data_info.num_examples, width, "a", num_heads=1)
        return params, {"stats": stats, "bank": bank}

    def before_update(state, rng):
        is_due = (state.step > 0) & (state.step % config.cluster_every == 0)
        return lax.cond(is_due, cluster, lambda state, rng: state, state, rng)

    @jax.named_scope("cluster")
    def cluster(state, rng):
        bank = state.buffers["bank"]
        features = bank["a"]
        seen = bank["seen"]
        x = l2_normalize(whiten(features, seen, config.pca_dims))
        rng_kmeans = jax.random.fold_in(rng, 0)
        _, label = kmeans(
            rng_kmeans, x, seen, num_clusters, config.kmeans_iterations, spherical=False
        )
        bank = bank | {"label": jnp.where(seen > 0, label, -1)[:, None]}
        classifier = init_classifier(rng, features.shape[1], num_clusters)
        return state.replace(
            params=state.params | {"classifier": classifier},
            buffers=state.buffers | {"bank": bank},
        )

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        out, stats = net.multi_crop(params, state.buffers["stats"], x, rng_net)
        features = {size: outputs["encoder"] for size, outputs in out.items()}
        return features, state.buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        bank = state.buffers["bank"]
        labels = bank["label"][batch["index"], 0]
        kernel = params["classifier"]["kernel"]
        bias = params["classifier"]["bias"]
        value = cluster_loss({size: z @ kernel + bias for size, z in outputs.items()}, labels)
        z_a, z_b = split_views(lax.stop_gradient(outputs["global"]))
        bank = write_bank(bank, batch["index"], {"a": z_a})
        usage = cluster_usage(labels, num_clusters)
        metrics = monitor(state.step, z_a, z_b)
        metrics["usage_entropy"] = entropy(usage[None])["usage_entropy"]
        return value, (state.buffers | {"bank": bank}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update)


def init_classifier(rng: Array, width: int, num_clusters: int) -> dict[str, Array]:
    """The top layer as main.py draws it: N(0, 0.01), bias 0."""
    kernel = 0.01 * jax.random.normal(rng, (width, num_clusters))
    return {"kernel": kernel, "bias": jnp.zeros(num_clusters)}
