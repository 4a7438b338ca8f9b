"""DeepCluster v2: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(Caron, Misra, Mairal, Goyal, Bojanowski, Joulin; NeurIPS 2020; arXiv 2006.09882, appendix), and
DeepCluster: "Deep Clustering for Unsupervised Learning of Visual Features"
(Caron, Bojanowski, Joulin, Douze; ECCV 2018; arXiv 1807.05520).

The embeddings of all images are remembered in a bank, by their index. Every `config.period` steps,
an epoch as published, k-means groups the bank; until the next time, each crop of an image must say
which cluster the image is in.

version 2: embeddings are unit vectors, k-means is spherical; it is run for every number in
  `config.clusters`, in turn on the bank of the first and of the second view; the logits of a crop
  are its products with the centroids, which are not trained.
  Code: facebookresearch/swav main_deepclusterv2.py.
version 1: one plain k-means of the encoder's features, whitened by PCA to `config.pca` dimensions
  and put on the unit sphere; a linear classifier, drawn anew each time, learns the clusters.
  Code: facebookresearch/deepcluster main.py. Not done here: its Sobel filter, its sampling of
  images evenly over clusters, features of an unaugmented pass, an optimizer of its own for the
  classifier (the old one's momentum survives).

The bank starts empty: the first `period` steps only fill it and train nothing, like the reference's
pass over the data before its first epoch. The recipe holds all parameters still for that time
(`optim.freeze`); where it does not, weight decay acts on them.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config, UserError
from jssl.config.values import Count, Length, Positive, Range, Steps, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.metrics import entropy, watcher
from jssl.nn import heads
from jssl.nn.apply import EncoderWithHeads
from jssl.ops import kmeans, l2_normalize, whiten
from jssl.transforms import views

PAD = 1024  # a bank's rows are a multiple, so that any usual number of devices shares it out


KEYS = {
    "version": Annotated[int, Range(1, 2)],
    "clusters": Annotated[tuple[Width, ...], Length(1)],
    "period": Steps,
    "iterations": Count,
    "temperature": Positive,
    "pca": Width,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    crops, centre, watch = views.multi_crop(config), views.eval_view(config), watcher(config)
    first, clusters, pca = config.version == 1, config.clusters, config.pca
    net, temperature = heads.chain(config, "head"), config.temperature
    if first:
        net = EncoderWithHeads({"encoder": net.modules["encoder"]})
    rows = -(-data_info.num_examples // PAD) * PAD
    check(config, clusters, data_info.num_examples)

    def init(rng, batch):
        params, stats = net.init(rng, centre(batch))
        width = jax.eval_shape(lambda: net.embed(params, stats, centre(batch))).shape[-1]
        width = width if first else config.head.features[-1]
        bank = {name: jnp.zeros((rows, width)) for name in ("a" if first else "ab")}
        bank |= {"seen": jnp.zeros(rows), "label": -jnp.ones((rows, len(clusters)), jnp.int32)}
        if first:
            params["classifier"] = classifier(rng, width, clusters[0])
        centroids = {} if first else {str(i): jnp.zeros((k, width)) for i, k in enumerate(clusters)}
        return params, {"stats": stats, "bank": bank, "centroids": centroids}

    def before_update(state, rng):
        due = (state.step > 0) & (state.step % config.period == 0)
        return lax.cond(due, cluster, lambda state, rng: state, state, rng)

    @jax.named_scope("cluster")
    def cluster(state, rng):
        bank, labels, centroids, params = state.buffers["bank"], [], {}, state.params
        for i, k in enumerate(clusters):
            x, key = bank["ab"[i % 2]], jax.random.fold_in(rng, i)
            x = l2_normalize(whiten(x, bank["seen"], pca)) if first else x
            found, label = kmeans(key, x, bank["seen"], k, config.iterations, spherical=not first)
            labels.append(jnp.where(bank["seen"] > 0, label, -1))
            centroids[str(i)] = found
        if first:
            centroids = {}
            params = params | {"classifier": classifier(rng, bank["a"].shape[1], clusters[0])}
        bank = bank | {"label": jnp.stack(labels, axis=1)}
        buffers = state.buffers | {"bank": bank, "centroids": centroids}
        return state.replace(params=params, buffers=buffers)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        said, stats = net.multi(params, state.buffers["stats"], crops(rng_view, batch), rng_net)
        get = lambda out: out["encoder"] if first else l2_normalize(out["head"])
        return {name: get(out) for name, out in said.items()}, state.buffers | {"stats": stats}

    def logits(params, centroids, i, z):
        if first:
            return z @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        return z @ centroids[str(i)].T / temperature

    def loss(params, found, state, batch, rng):
        bank, centroids = state.buffers["bank"], state.buffers["centroids"]
        label, losses = bank["label"][batch["index"]], []  # [B, heads], -1: not in a cluster yet
        for i in range(len(clusters)):
            total, count = 0.0, 0.0
            for z in found.values():
                answer = jnp.repeat(label[:, i], len(z) // len(label))
                log_p = jax.nn.log_softmax(logits(params, centroids, i, z))
                right = jnp.take_along_axis(log_p, jnp.maximum(answer, 0)[:, None], axis=1)[:, 0]
                total, count = total - (right * (answer >= 0)).sum(), count + (answer >= 0).sum()
            losses.append(total / jnp.maximum(count, 1))
        a, b = (lax.stop_gradient(found["global"][i::2]) for i in range(2))
        at = batch["index"]
        new = {"a": a} if first else {"a": a, "b": b}
        bank = bank | {name: bank[name].at[at].set(z) for name, z in new.items()}
        bank["seen"] = bank["seen"].at[at].set(1.0)
        used = jnp.bincount(jnp.maximum(label[:, 0], 0), length=clusters[0]) / len(label)
        metrics = watch(state.step, a, b)
        metrics["usage_entropy"] = entropy(used[None])["usage_entropy"]
        return sum(losses) / len(losses), (state.buffers | {"bank": bank}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update)


def check(config, clusters, examples):
    if config.version not in (1, 2) or (config.version == 1 and len(clusters) != 1):
        raise UserError(
            f"config.version={config.version} with config.clusters={clusters}: version is 1 or 2, "
            "and version 1 has one number of clusters"
        )
    if not clusters or min(clusters) < 1 or max(clusters) > examples:
        most = max(examples // 2, 1)
        raise UserError(
            f"config.clusters={clusters} must be at least 1 and at most the {examples} examples; "
            f"try {tuple(min(max(k, 1), most) for k in clusters) or (most,)}"
        )


def classifier(rng, width: int, clusters: int):
    """DeepCluster's top layer as main.py draws it: N(0, .01), bias 0."""
    kernel = 0.01 * jax.random.normal(rng, (width, clusters))
    return {"kernel": kernel, "bias": jnp.zeros(clusters)}
