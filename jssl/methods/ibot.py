"""iBOT: "Image BERT Pre-Training with Online Tokenizer"
(Zhou, Wei, Wang, Shen, Xie, Yuille, Kong; ICLR 2022; arXiv 2111.07832), and DINOv2's form of it:
"DINOv2: Learning Robust Visual Features without Supervision" (Oquab et al.; TMLR 2024; arXiv
2304.07193).

DINO on class tokens, and the same on patches: in the student's global views blocks of patches are
hidden, and at each hidden place it predicts what the teacher, which sees the whole view, says.

Reference code: bytedance/ibot main_ibot.py; facebookresearch/dinov2. DINOv2 adds Sinkhorn
centring, a head of its own for patches (`config.tie_heads` False) and KoLeo (`config.koleo`), which
spreads the class tokens of each view. `config.mask_share` of the views are masked, each by a ratio
drawn from `config.mask_range`. Difference: the blocks' sizes, see `masking.block_mask`.
"""

import jax
import jax.numpy as jnp

from jssl.config import Config, UserError, suggest
from jssl.config.values import NonNegative, Positive, Share, ShareSpan
from jssl.core import DatasetInfo, Objective, split_objective
from jssl.losses import koleo
from jssl.methods.dino import CENTRING, TEACHER, across_views, follow, last_layer
from jssl.metrics import entropy, watcher
from jssl.nn import ema, heads, masked_image
from jssl.nn.apply import apply, init
from jssl.ops import l2_normalize, linear_schedule, patchify, sinkhorn
from jssl.transforms import views
from jssl.transforms.masking import beit_mask, mask_to_indices

MASKS = {"block_min": Positive, "mask_range": ShareSpan, "mask_share": Share}
KEYS = ema.KEYS | TEACHER | MASKS | {"tie_heads": bool, "koleo": NonNegative}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    crops, watch, one = views.multi_crop(config), watcher(config), masked_image.Setup(config)
    encoder, n, (least, most) = one.encoder, one.grid**2, config.mask_range
    chain = heads.chain(config, "head", "patch_head")
    names = ["head"] if config.tie_heads else ["head", "patch_head"]
    hidden, last = masked_image.num_masked(most, n), names[-1]
    slow = ema.teacher_from_config(config, chain, "encoder", *names, extra=("prototypes",))
    steady = slow.net.modules["encoder"]
    if config.centring not in CENTRING or not encoder.class_token:
        raise UserError(
            f"config.centring={config.centring!r}: {suggest(config.centring, CENTRING)}; "
            "and config.model.class_token must be True"
        )

    def start(rng, batch):
        rngs = jax.random.split(rng, 5)
        f, _ = init(encoder, rngs[0], one.centre(batch))
        params, stats = {"encoder": f, "prototypes": {}}, {"encoder": {}}
        rows = jnp.zeros((2, encoder.dim))
        width, outputs = config.head.features[-1], config.prototypes
        for i, name in enumerate(names):
            params[name], stats[name] = init(chain.modules[name], rngs[1 + i], rows)
            w = jax.random.uniform(rngs[3 + i], (outputs, width), minval=-1, maxval=1)
            params["prototypes"][name] = {"direction": w * width**-0.5}
        params["mask_token"] = jnp.zeros(encoder.dim)  # models/vision_transformer.py:172
        centres = {"cls": jnp.zeros(outputs), "patch": jnp.zeros(outputs)}
        return params, {"stats": stats, "centre": centres} | slow.start(params, stats)

    def masks(rng, rows: int):
        """(mask bool [rows, N], at int32 [rows, hidden], weight [rows, hidden], 0 for no mask)."""
        rng_share, rng_ratio, rng_mask = jax.random.split(rng, 3)
        ratio = least + (most - least) * jax.random.uniform(rng_ratio, (rows,))
        chosen = jax.random.uniform(rng_share, (rows,)) < config.mask_share
        count = jnp.where(chosen, jnp.round(ratio * n), 0).astype(jnp.int32)
        mask = beit_mask(rng_mask, rows, one.grid, count, config.block_min, hidden)
        return (
            mask,
            mask_to_indices(mask, hidden),
            (jnp.arange(hidden) < count[:, None]).astype(jnp.float32),
        )

    def head(name, params, stats, x):
        """Unit rows [rows, ..., d] of a head for tokens [rows, ..., D]."""
        rows = x.reshape(-1, x.shape[-1])
        flat, stats = apply(chain.modules[name], params, stats, rows, train=True)
        return l2_normalize(flat).reshape(*x.shape[:-1], -1), stats

    def both(params, stats, tokens, at):
        """({"cls", "patch"} through their heads, stats) of tokens [rows, 1 + N, D]."""
        cls, stats_head = head("head", params["head"], stats["head"], tokens[:, 0])
        stats = stats | {"head": stats_head}
        some = jnp.take_along_axis(tokens[:, 1:], at[..., None], axis=1)
        patch, stats_last = head(last, params[last], stats[last], some)
        return {"cls": cls, "patch": patch}, stats | {last: stats_last}

    def forward(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        x, buffers = crops(rng_view, batch), state.buffers
        mask, at, weight = masks(rng_mask, len(x["global"]))
        see = lambda x, hide=None: apply(
            encoder, params["encoder"], {}, x, train=True, hide=hide, rngs={"drop_path": rng_net}
        )[0].astype(jnp.float32)
        tokens = see(x["global"], (mask, params["mask_token"]))
        found, stats = both(params, buffers["stats"], tokens, at)
        found |= {"weight": weight, "h": tokens[:, 0]}
        if "local" in x:
            small = see(x["local"])[:, 0]
            found["local"], stats_head = head("head", params["head"], stats["head"], small)
            stats = stats | {"head": stats_head}
        whole, _ = apply(steady, buffers["target"]["encoder"], {}, x["global"], train=True)
        told, slow_stats = both(buffers["target"], buffers["target_stats"], whole, at)
        found |= {f"teacher_{name}": z for name, z in told.items()}
        return found, buffers | {"stats": stats, "target_stats": slow_stats}

    def aim(z, weight, prototypes, centre, step):
        """The teacher's distributions [rows, K] of z [rows, d], and their new centre; rows of
        weight 0 do not count (DINOv2's; iBOT's centre is of all patches, hidden or not)."""
        heat = linear_schedule(
            step, config.teacher_warmup, config.teacher_first, config.teacher_last
        )
        told = jax.lax.stop_gradient(last_layer(prototypes, z))
        p = sinkhorn(told, heat, 3, weight)
        if config.centring == "centre":
            p = jax.nn.softmax((told - centre) / heat)
        middle = (told * weight[:, None]).sum(0) / jnp.maximum(weight.sum(), 1)
        return p, follow(centre, middle, config.center_momentum)

    def loss(params, found, state, batch, rng):
        buffers, centre = state.buffers, state.buffers["centre"]
        say = lambda name, z: last_layer(params["prototypes"][name], z) / config.temperature
        taught = buffers["target"]["prototypes"]
        z, all_rows = found["teacher_cls"], jnp.ones(len(found["teacher_cls"]))
        p, centre_cls = aim(z, all_rows, taught["head"], centre["cls"], state.step)
        small = say("head", found["local"]) if "local" in found else None
        cls = across_views(say("head", found["cls"]), small, p)
        rows = lambda z: z.reshape(-1, z.shape[-1])
        at, weight = rows(found["teacher_patch"]), found["weight"]
        q, centre_patch = aim(at, weight.ravel(), taught[last], centre["patch"], state.step)
        log_p = jax.nn.log_softmax(say(last, rows(found["patch"])))
        each = -(q * log_p).sum(-1).reshape(weight.shape)
        patch = ((each * weight).sum(1) / jnp.maximum(weight.sum(1), 1)).mean()
        metrics = watch(state.step, z[0::2], z[1::2]) | entropy(p)
        metrics |= {"cls_loss": cls, "patch_loss": patch, "ema": slow.now(state)}
        value = cls + patch
        if config.koleo:
            spread = koleo(found["h"][0::2]) + koleo(found["h"][1::2])  # a sum, as in DINOv2
            value, metrics["koleo"] = value + config.koleo * spread, spread
        return value, (buffers | {"centre": {"cls": centre_cls, "patch": centre_patch}}, metrics)

    def embed(params, buffers, batch):
        return one.embed(buffers["target"], batch)

    def render(params, buffers, batch, rng):
        """original | masked | the patches whose teacher features are nearest to the prediction."""
        images, slow = one.centre(batch), buffers["target"]
        mask = beit_mask(rng, len(images), one.grid, hidden, config.block_min, hidden)
        every = jnp.tile(jnp.arange(n), (len(images), 1))
        see = lambda f, hide=None: apply(encoder, f, {}, images, train=False, hide=hide)[0]
        seen = see(params["encoder"], (mask, params["mask_token"]))
        said, _ = both(params, buffers["stats"], seen, every)
        told, _ = both(slow, buffers["target_stats"], see(slow["encoder"]), every)
        found = one.lookup(said["patch"], told["patch"], patchify(images, encoder.patch))
        return {"masked": one.picture(patchify(images, encoder.patch), mask, found)}

    return split_objective(start, forward, loss, embed, before_update=slow.follow, render=render)
