"""DINO: "Emerging Properties in Self-Supervised Vision Transformers"
(Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin; ICCV 2021; arXiv 2104.14294),
algorithm 1.

Student and teacher, a moving average of the student, each output a distribution over
`config.out_dim` prototypes. From every crop of an image, small local ones included, the student
predicts the teacher's distributions for its two global views. The teacher's logits are centered and
sharpened, so that neither one output dominates nor all are equal.

Reference code: facebookresearch/dino main_dino.py. `config.centering`: "center", as published, or
"sinkhorn" (as in DINOv2). `config.center_momentum` is the paper's m. The last layer has unit rows
(weight norm with a fixed scale, if `config.norm_last_layer`) and is frozen in the first epoch:
`optim.freeze`. With plain accumulation the center moves once a micro-batch; with `grad_cache` once
an update, as published.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import cross_view_cross_entropy
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import ema, heads, prototypes
from jssl.nn.prototypes import prototype_logits, teacher_assignments, update_center
from jssl.ops import l2_normalize
from jssl.transforms.views import eval_view, multi_crop, split_views

KEYS = (
    ema.KEYS
    | prototypes.KEYS
    | {
        "norm_last_layer": Annotated[
            bool, "the last layer has unit weight vectors; False: it learns their scale"
        ],
        "eval_network": Annotated[
            Literal["teacher", "student"],
            "network whose features are evaluated; the paper's is the teacher",
        ],
    }
)


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    crops = multi_crop(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    net = heads.chain(config, "head")
    teacher = ema.teacher_from_config(config, net, "encoder", "head", extra=("prototypes",))
    width = config.head.features[-1]

    def init(rng, batch):
        rng_net, rng_prototypes = jax.random.split(rng)
        params, stats = net.init(rng_net, view(batch))
        layer = prototypes.init_prototypes(rng_prototypes, config.out_dim, width)
        if not config.norm_last_layer:
            layer["scale"] = jnp.ones(config.out_dim)
        params["prototypes"] = layer
        center = jnp.zeros(config.out_dim)
        return params, {"stats": stats, "center": center} | teacher.init(params, stats)

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        student_out, stats = net.multi_crop(params, state.buffers["stats"], x, rng_net)
        teacher_out, buffers = teacher(state.buffers, x["global"])
        outputs = {size: l2_normalize(out["head"]) for size, out in student_out.items()}
        outputs["teacher"] = l2_normalize(teacher_out["head"])
        return outputs, buffers | {"stats": stats}

    def loss(params, outputs, state, batch, rng):
        buffers = state.buffers
        teacher_logits = prototype_logits(buffers["teacher"]["prototypes"], outputs["teacher"])
        temperature = prototypes.teacher_temperature(config, state.step)
        p = teacher_assignments(config, teacher_logits, buffers["center"], temperature)

        def student_logits(z):
            return prototype_logits(params["prototypes"], z) / config.temperature

        local_logits = student_logits(outputs["local"]) if "local" in outputs else None
        value = cross_view_cross_entropy(student_logits(outputs["global"]), local_logits, p)
        center = update_center(config, buffers["center"], teacher_logits.mean(0))
        metrics = monitor(state.step, *split_views(outputs["teacher"])) | entropy(p)
        metrics["teacher_temperature"] = jnp.float32(temperature)
        metrics["ema_decay"] = teacher.decay(state)
        return value, (buffers | {"center": center}, metrics)

    def embed(params, buffers, batch):
        if config.eval_network == "teacher":
            return net.embed(buffers["teacher"], buffers["teacher_stats"], view(batch))
        return net.embed(params, buffers["stats"], view(batch))

    part = "teacher" if config.eval_network == "teacher" else "encoder"
    return split_objective(init, forward, loss, embed, before_update=teacher.update, embeds=part)
