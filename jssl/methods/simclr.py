"""SimCLR: "A Simple Framework for Contrastive Learning of Visual Representations"
(Chen, Kornblith, Norouzi, Hinton; ICML 2020; arXiv 2002.05709), algorithm 1.

Two random views of each image pass through a network f and a projection head g. The loss asks each
z = g(f(view)) to find the z of the other view of its image among all others of the global batch.
Afterwards only f is kept.

`config.loss` chooses NT-Xent or its decoupled form, DCL or DCLW ("Decoupled Contrastive Learning",
Yeh et al.; ECCV 2022; arXiv 2110.06848).

Reference code: google-research/simclr (tf2/model.py, tf2/objective.py). As there, both views go
through the network as one batch of 2B, so BatchNorm sees them together (lightly runs them one after
the other). Head: Dense-BN-ReLU-Dense-BN; `config.head.last_bias` sets whether the last one learns
a bias.
"""

from functools import partial
from typing import Annotated

import jax

from jssl.config import Config, ConfigError, suggest
from jssl.config.values import Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import dcl, nt_xent
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.transforms.views import eval_view, split_views, two_views

LOSSES = {"nt_xent": nt_xent, "dcl": dcl, "dclw": partial(dcl, sigma=0.5)}  # paper: sigma = 0.5

KEYS = {
    "temperature": Annotated[Positive, "divides the similarities (the paper's tau)"],
    "loss": Annotated[str, 'contrastive loss: "nt_xent", "dcl" or "dclw"'],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    if config.loss not in LOSSES:
        raise ConfigError("config.loss", config.loss, "not known", suggest(config.loss, LOSSES))
    contrastive_loss = partial(LOSSES[config.loss], temperature=config.temperature)
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        return out["head"], {"stats": stats}

    def loss(params, z, state, batch, rng):
        z_a, z_b = split_views(z)
        value, top1 = contrastive_loss(z_a, z_b)
        metrics = monitor(state.step, z_a, z_b) | {"contrastive_top1": top1}
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
