"""LeJEPA: "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(Balestriero & LeCun; 2025; arXiv 2511.08544), section 5 and algorithm 2.

All views of an image should have one embedding: each is drawn to the mean of the image's global
views. The embeddings of each view should be an isotropic Gaussian (SIGReg), which alone keeps them
from collapsing: no teacher, no stopped gradient, no predictor.

Reference code: rbalestr-lab/lejepa; its README draws views to the global views' mean
(`config.anchor` "global"), its MINIMAL.md to that of all ("all").
"""

import jax
import jax.numpy as jnp

from jssl import metrics
from jssl.config import Config, UserError
from jssl.config.values import Share, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import sigreg
from jssl.nn import heads
from jssl.transforms import views

KEYS = {
    "anchor": str,
    "sigreg": Share,
    "slices": Width,
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    crops, centre, watch = (
        views.multi_crop(config),
        views.eval_view(config),
        metrics.watcher(config),
    )
    net, weight = heads.chain(config, "head"), config.sigreg
    if config.anchor not in ("global", "all"):
        raise UserError(f"config.anchor={config.anchor!r} must be 'global' or 'all'")

    def init(rng, batch):
        params, stats = net.init(rng, centre(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        said, stats = net.multi(params, state.buffers["stats"], x, rng_net)
        return {name: out["head"] for name, out in said.items()}, {"stats": stats}

    def loss(params, found, state, batch, rng):
        b, width = len(batch["image"]), config.head.features[-1]
        by_image = {name: z.reshape(b, -1, width) for name, z in found.items()}
        z = jnp.concatenate([*by_image.values()], axis=1)  # [B, V, D]
        anchor = z if config.anchor == "all" else by_image["global"]
        middle = anchor.mean(1, keepdims=True)
        prediction = jnp.square(middle - z).mean()
        gaussian = sigreg(rng, z.swapaxes(0, 1), config.slices)
        metrics = watch(state.step, z[:, 0], z[:, 1])
        metrics |= {"prediction": prediction, "sigreg": gaussian}
        return (1 - weight) * prediction + weight * gaussian, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed)
