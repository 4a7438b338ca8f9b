"""SimCLR: "A Simple Framework for Contrastive Learning of Visual Representations"
(Chen, Kornblith, Norouzi, Hinton; ICML 2020; arXiv 2002.05709), algorithm 1.

Two random views of each image; a network f and a projection head g; the loss asks of each
z = g(f(view)) to find the z of the other view of its image among all others of the global batch.
What is kept afterwards is f.

`config.loss` chooses NT-Xent or its decoupled form, DCL or DCLW ("Decoupled Contrastive Learning",
Yeh et al.; ECCV 2022; arXiv 2110.06848).

Reference code: google-research/simclr (tf2/model.py, tf2/objective.py). As there, both views go
through the network as one batch of 2B, so BatchNorm sees them together (lightly runs them one after
the other). Head: Dense-BN-ReLU-Dense-BN; `config.head` says which of its last layer learns a bias.
"""

from functools import partial

import jax

from jssl import metrics
from jssl.config import Config, UserError, suggest
from jssl.config.values import Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import dcl, nt_xent
from jssl.nn import heads
from jssl.transforms import views

LOSSES = {"nt_xent": nt_xent, "dcl": dcl, "dclw": partial(dcl, sigma=0.5)}  # paper: sigma = 0.5

KEYS = {
    "temperature": Positive,
    "loss": str,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    pair, centre, watch = views.two_views(config), views.eval_view(config), metrics.watcher(config)
    net = heads.chain(config, "head")
    if config.loss not in LOSSES:
        raise UserError(f"config.loss={config.loss!r} is not known; {suggest(config.loss, LOSSES)}")
    contrast = partial(LOSSES[config.loss], temperature=config.temperature)

    def init(rng, batch):
        params, stats = net.init(rng, centre(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = pair(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return out["head"], {"stats": stats}

    def loss(params, z, state, batch, rng):
        value, top1 = contrast(z[0::2], z[1::2])
        metrics = watch(state.step, z[0::2], z[1::2])
        return value, (state.buffers, metrics | {"contrast_top1": top1})

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed)
