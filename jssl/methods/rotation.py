"""RotNet: "Unsupervised Representation Learning by Predicting Image Rotations"
(Gidaris, Singh, Komodakis; ICLR 2018; arXiv 1803.07728), equation 2.

Each image enters the network four times, turned by 0, 90, 180 and 270 degrees. The network says by
which angle each copy was turned. It can only know if it recognizes what the image shows, and which
way up this stands. So the task has no answer for images without an upright position, such as
satellite images.

Reference code: gidariss/FeatureLearningRotNet. As there, all copies of an image are in one batch,
and the rotation is exact and comes after the crop. Difference: the networks are those of jssl.

Deep layers specialize in angles. The paper therefore evaluates a middle layer, as
`--config.eval.layer=stage3` does (docs of mmselfsup: linear probe 54.2 % on the best layer of a
ResNet-50, 45.9 % on the last).
"""

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.core import DatasetInfo, Objective, Panel
from jssl.losses import cross_entropy
from jssl.metrics import monitor_from_config
from jssl.nn import heads
from jssl.nn.masked_image import eval_view, train_view
from jssl.transforms.pictures import to_pixels
from jssl.transforms.pretext import rotations


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    heads.classifier(config, classes=4)
    random_view = train_view(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")

    def init(rng, batch):
        params, stats = net.init(rng, view(batch))
        return params, {"stats": stats}

    def loss(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = rotations(random_view(rng_view, batch))
        out, stats = net(params, state.buffers["stats"], x, train=True, rng=rng_net)
        angle = jnp.arange(len(x)) % 4
        value, top1 = cross_entropy(out["head"], angle)
        metrics = monitor(state.step, out["encoder"][::4]) | {"rotation_top1": top1}
        return value, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return net.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        x = rotations(view(batch))
        out, _ = net(params, buffers["stats"], x, train=False)
        angle = out["head"].argmax(1)
        backwards = rotations(x).reshape(-1, 4, *x.shape[1:])
        upright = jax.vmap(lambda copies, k: copies[-k % 4])(backwards, angle)
        columns = {}
        for k in range(4):
            columns[f"{90 * k} degrees"] = x[k::4]
            columns[f"{90 * k}, turned back"] = upright[k::4]
        images = tuple(to_pixels(config, column) for column in columns.values())
        return {"rotation": Panel(images, tuple(columns))}

    return Objective(init, loss, embed, render)
