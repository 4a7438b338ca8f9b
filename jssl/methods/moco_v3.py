"""MoCo v3: "An Empirical Study of Training Self-Supervised Vision Transformers"
(Chen, Xie, He; ICCV 2021; arXiv 2104.02057), algorithm 1.

Two views of each image. A network with a predictor makes queries of both, an EMA teacher without it
makes keys. Each query must find the key of the other view among the keys of its batch. There is no
queue.

Reference code: facebookresearch/moco-v3 moco/builder.py. As there, the loss has the factor 2 tau.
A ViT's patch projection stays as it was drawn (section 4.1): `optim.freeze`.
"""

from typing import Annotated

import jax

from jssl.config import Config
from jssl.config.values import Positive
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import info_nce
from jssl.metrics import monitor_from_config
from jssl.nn import ema, heads
from jssl.transforms.views import eval_view, split_views, two_views

KEYS = ema.KEYS | {
    "temperature": Annotated[
        Positive, "divides the similarities (the paper's tau); 2 tau scales the loss"
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    train_views = two_views(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    student = heads.chain(config, "head", "predictor")
    teacher = ema.teacher_from_config(config, student, "encoder", "head")

    def init(rng, batch):
        params, stats = student.init(rng, view(batch))
        return params, {"stats": stats} | teacher.init(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = train_views(rng_view, batch)
        out, stats = student(params, state.buffers["stats"], x, train=True, rng=rng_net)
        teacher_out, buffers = teacher(state.buffers, x)
        return {"q": out["predictor"], "k": teacher_out["head"]}, buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        q_a, q_b = split_views(outputs["q"])
        k_a, k_b = split_views(jax.lax.stop_gradient(outputs["k"]))
        loss_a, top1_a = info_nce(q_a, k_b, config.temperature)
        loss_b, top1_b = info_nce(q_b, k_a, config.temperature)
        value = 2 * config.temperature * (loss_a + loss_b)
        metrics = monitor(state.step, k_a, k_b)
        metrics["contrastive_top1"] = (top1_a + top1_b) / 2
        metrics["ema_decay"] = teacher.decay(state)
        return value, (state.buffers, metrics)

    def embed(params, buffers, batch):
        return student.embed(params, buffers["stats"], view(batch))

    return split_objective(init, forward, loss, embed, before_update=teacher.update)
