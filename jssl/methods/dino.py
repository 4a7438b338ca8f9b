"""DINO: "Emerging Properties in Self-Supervised Vision Transformers"
(Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin; ICCV 2021; arXiv 2104.14294),
algorithm 1.

Student and teacher, a moving average of the student, each give a distribution over K outputs. From
every crop of an image, small local ones too, the student predicts what the teacher says of its two
global views. The teacher's is centred and sharpened, so that neither one output wins nor all do.

Reference code: facebookresearch/dino main_dino.py. `config.centring`: "centre", as published, or
"sinkhorn" (as in DINOv2); `config.center_momentum` is the paper's m. The last layer has unit rows
(weight norm with a fixed scale, if `config.norm_last_layer`) and stays as drawn in the first epoch:
`optim.freeze`. With plain accumulation the centre moves once a micro-batch; with `grad_cache` once
an update, as published.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.config import Config, UserError, suggest
from jssl.config.values import Every, Positive, Rate, Width
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import soft_cross_entropy
from jssl.metrics import entropy, watcher
from jssl.nn import ema, heads
from jssl.ops import l2_normalize, linear_schedule, sinkhorn
from jssl.transforms import views

CENTRING = ("centre", "sinkhorn")
EVALUATE = ("teacher", "student")  # whose encoder is measured: the paper's, lightly's

TEACHER = {  # keys of a method whose teacher assigns examples to prototypes
    "temperature": Positive,
    "teacher_first": Positive,
    "teacher_last": Positive,
    "teacher_warmup": Every,
    "prototypes": Width,
    "centring": str,
    "center_momentum": Rate,
}
KEYS = ema.KEYS | TEACHER | {"norm_last_layer": bool, "evaluate": str}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    crops, centre, watch = views.multi_crop(config), views.eval_view(config), watcher(config)
    net, outputs = heads.chain(config, "head"), config.prototypes
    slow = ema.teacher_from_config(config, net, "encoder", "head", extra=("prototypes",))
    teacher = config.evaluate == "teacher"
    for key, known in (("centring", CENTRING), ("evaluate", EVALUATE)):
        if config[key] not in known:
            raise UserError(
                f"config.{key}={config[key]!r} is not known; {suggest(config[key], known)}"
            )

    def init(rng, batch):
        rng_net, rng_w = jax.random.split(rng)
        params, stats = net.init(rng_net, centre(batch))
        width = config.head.features[-1]
        # Drawn as PyTorch's Linear: only the direction is used; the length sets how fast it turns.
        w = jax.random.uniform(rng_w, (outputs, width), minval=-1, maxval=1) * width**-0.5
        scale = {} if config.norm_last_layer else {"scale": jnp.ones(outputs)}
        params["prototypes"] = {"direction": w} | scale
        start = slow.start(params, stats)
        return params, {"stats": stats, "centre": jnp.zeros(outputs)} | start

    def forward(params, state, batch, rng):
        rng_view, rng_net = jax.random.split(rng)
        x = crops(rng_view, batch)
        said, stats = net.multi(params, state.buffers["stats"], x, rng_net)
        found = {name: l2_normalize(out["head"]) for name, out in said.items()}
        told, buffers = slow(state.buffers, x["global"])
        return found | {"teacher": l2_normalize(told["head"])}, buffers | {"stats": stats}

    def loss(params, found, state, batch, rng):
        buffers, centre = state.buffers, state.buffers["centre"]
        told = last_layer(buffers["target"]["prototypes"], found["teacher"])
        heat = linear_schedule(
            state.step, config.teacher_warmup, config.teacher_first, config.teacher_last
        )
        if config.centring == "centre":
            p = lax.stop_gradient(jax.nn.softmax((told - centre) / heat))
        else:
            p = sinkhorn(told, heat, 3)
        logits = lambda z: last_layer(params["prototypes"], z) / config.temperature
        small = logits(found["local"]) if "local" in found else None
        value = across_views(logits(found["global"]), small, p)
        centre = follow(centre, told.mean(0), config.center_momentum)
        z = found["teacher"]
        metrics = watch(state.step, z[0::2], z[1::2]) | entropy(p)
        metrics |= {"ema": slow.now(state), "teacher_temperature": jnp.float32(heat)}
        return value, (buffers | {"centre": centre}, metrics)

    def embed(params, buffers, batch):
        if teacher:
            return net.embed(buffers["target"], buffers["target_stats"], centre(batch))
        return net.embed(params, buffers["stats"], centre(batch))

    return split_objective(init, forward, loss, embed, before_update=slow.follow)


def follow(center: jax.Array, mean: jax.Array, momentum: float) -> jax.Array:
    """The center [K] moved towards a batch's mean logits [K]: main_dino.py:416, paper's
    equation 4. No gradient flows."""
    return momentum * center + (1 - momentum) * lax.stop_gradient(mean)


def last_layer(layer, z):
    """Logits [N, K] of unit rows z [N, D]: a Dense layer without bias, under weight norm."""
    return z @ l2_normalize(layer["direction"]).T * layer.get("scale", 1.0)


def across_views(said, small, p):
    """The mean cross-entropy of each pair of a teacher's view, p [2B, K], and another crop: logits
    `said` [2B, K] of the global views, `small` [nB, K] of the local ones, or None."""
    value = soft_cross_entropy(said[0::2], p[1::2]) + soft_cross_entropy(said[1::2], p[0::2])
    if small is None:
        return value / 2
    count = 2 * len(small) // len(p)
    both = jnp.repeat(p[0::2] + p[1::2], count, axis=0)
    return (value + count * soft_cross_entropy(small, both)) / (2 + 2 * count)
