"""SimSiam: "Exploring Simple Siamese Representation Learning"
(Chen & He; CVPR 2021; arXiv 2011.10566), algorithm 1.

One network (encoder, projector) sees two views of an image; a predictor on one side must say what
comes out on the other, whose gradient is stopped. No negatives, no moving average: the stopped
gradient is what keeps the features from collapsing.

Reference code: facebookresearch/simsiam. The predictor's learning rate is not kept constant
(section 4.2 of the paper found that it need not fall; lightly's benchmark lets it fall too).
"""

import jax
import jax.numpy as jnp

from jssl import augment, nn, optim
from jssl.config import bind
from jssl.core import Method, Objective, minimize
from jssl.losses import regression
from jssl.nn import heads
from jssl.nn.apply import Chain
from jssl.ops import unit


def build(config) -> Method:
    dtype, centre = config.model.dtype, augment.eval_view(config)
    view = bind(augment.view, config.augment, "augment", dtype=dtype)
    net = Chain(
        {
            "encoder": nn.encoder(config.model),
            "head": bind(heads.build, config.head, "head", dtype=dtype),
            "predictor": heads.predictor(config),
        }
    )

    def init(rng, batch):
        return net.init(rng, centre(batch["image"], batch["size"]))

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        image, size = (jnp.repeat(batch[key], 2, axis=0) for key in ("image", "size"))
        views = view(rng_view, image, size)  # [2B, H, W, C]: the two views of an image in a row
        out, stats = net(params, state.buffers, views, train=True, rng=rng_net)
        p, z = out["predictor"], out["head"]
        both = regression(p[0::2], z[1::2]) + regression(p[1::2], z[0::2])
        spread = unit(z).std(0).mean() * z.shape[-1] ** 0.5  # 1 if spread evenly, 0 if collapsed
        return both / 4 - 1, (stats, {"spread": spread})  # equation 2: half the negative cosines

    def embed(params, buffers, batch):
        images = centre(batch["image"], batch["size"])
        return net.first("encoder")(params, buffers, images, train=False)[0]["encoder"]

    return minimize(Objective(init, loss, embed), optim.from_config(config), config.accumulate)
