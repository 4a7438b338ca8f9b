"""LeJEPA: "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(Balestriero & LeCun; 2025; arXiv 2511.08544), section 5 and algorithm 2.

All views of an image should have one embedding: each view predicts the mean of the image's global
views. The embeddings of each view should follow an isotropic Gaussian (SIGReg). That alone keeps
them from collapsing: there is no teacher, no stopped gradient and no predictor.

Reference code: rbalestr-lab/lejepa. Its README takes the mean of the global views
(`config.invariance_center` "global"), its MINIMAL.md that of all views ("all").
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.config.values import Share, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import sigreg
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.transforms.views import eval_view, multi_crop

KEYS = {
    "invariance_center": Annotated[
        Literal["global", "all"], "each view predicts the mean of the global views, or of all views"
    ],
    "sigreg_weight": Annotated[
        Share, "weight of SIGReg (the paper's lambda); that of the prediction is 1 - lambda"
    ],
    "num_slices": Annotated[Width, "random directions on which SIGReg projects the embeddings"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    crops = multi_crop(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")
    weight = config.sigreg_weight

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        return params, {"stats": stats}

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        out, stats = net.multi_crop(params, state.buffers["stats"], x, rng_net)
        return {size: outputs["head"] for size, outputs in out.items()}, {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        shape = (len(batch["image"]), -1, config.head.features[-1])
        by_image = {size: z.reshape(shape) for size, z in outputs.items()}
        z_BVD = jnp.concatenate([*by_image.values()], axis=1)
        centered_on = z_BVD if config.invariance_center == "all" else by_image["global"]
        center_B1D = centered_on.mean(1, keepdims=True)
        prediction = jnp.square(center_B1D - z_BVD).mean()
        gaussian = sigreg(rng, z_BVD.swapaxes(0, 1), config.num_slices)
        value = (1 - weight) * prediction + weight * gaussian
        metrics = monitor(state.step, z_BVD[:, 0], z_BVD[:, 1])
        metrics |= {"prediction": prediction, "sigreg": gaussian}
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed)
