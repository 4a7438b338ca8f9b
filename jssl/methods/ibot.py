"""iBOT: "Image BERT Pre-Training with Online Tokenizer"
(Zhou, Wei, Wang, Shen, Xie, Yuille, Kong; ICLR 2022; arXiv 2111.07832), and its form in DINOv2:
"DINOv2: Learning Robust Visual Features without Supervision" (Oquab et al.; TMLR 2024; arXiv
2304.07193).

DINO on class tokens, and the same on patches: in the student's global views, blocks of patches are
masked. At each masked position the student predicts the distribution of the teacher, which sees the
whole view.

Reference code: bytedance/ibot main_ibot.py; facebookresearch/dinov2. DINOv2 adds Sinkhorn
centering, a separate head for patches (`config.shared_head` False) and KoLeo
(`config.koleo_weight`), which spreads the class tokens of each view. A view is masked with
probability `config.mask_probability`; the share of its masked patches is drawn from
`config.mask_range`. DINOv3 adds Gram anchoring (`config.gram_weight`, `jssl.nn.gram`).
Differences: the blocks' sizes, see `masking.block_mask`; the center of the patches is the mean over
the masked ones, as in DINOv2, see `masked_patch_loss`.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax.linen import Module
from jax import Array

from jssl.config import Config, ConfigError
from jssl.config.values import NonNegative, Positive, Share, ShareSpan
from jssl.core import Buffers, DatasetInfo, Objective, Panel, Params, split_objective
from jssl.losses import cross_view_cross_entropy, koleo
from jssl.metrics import entropy, monitor_from_config
from jssl.nn import ema, gram, heads, masked_image, prototypes
from jssl.nn.apply import EncoderWithHeads, apply, init
from jssl.nn.prototypes import (
    prototype_logits,
    teacher_assignments,
    teacher_temperature,
    update_center,
    weighted_mean,
)
from jssl.nn.vit_encoder import ViT
from jssl.ops import l2_normalize, patchify
from jssl.transforms.masking import beit_mask, mask_to_indices
from jssl.transforms.views import multi_crop, split_views, undistorted_views

KEYS = (
    ema.KEYS
    | prototypes.KEYS
    | gram.KEYS
    | {
        "min_block_patches": Annotated[
            Positive, "area of the smallest masked rectangle, in patches"
        ],
        "mask_range": Annotated[
            ShareSpan, "range of the share of the patches that are masked in a masked view"
        ],
        "mask_probability": Annotated[Share, "probability that a global view is masked"],
        "shared_head": Annotated[
            bool, "head serves class token and patches; False: patch_head serves patches"
        ],
        "koleo_weight": Annotated[
            NonNegative, "weight of the KoLeo loss on class tokens (DINOv2); 0: off"
        ],
    }
)


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    encoder = masked_image.vit_from_config(config)
    if not encoder.class_token:
        raise ConfigError("config.model.class_token", False, "iBOT needs it", "set it to True")
    view = masked_image.eval_view(config)
    crops = multi_crop(config)
    monitor = monitor_from_config(config)
    names = ["head"] if config.shared_head else ["head", "patch_head"]
    net = heads.chain(config, "head", "patch_head")
    teacher = ema.teacher_from_config(config, net, "encoder", *names, extra=("prototypes",))
    project = project_tokens(net, names[-1])
    side = masked_image.grid_side(config, encoder)
    sample_masks = mask_sampler(config, side)
    anchor = gram.from_config(config, encoder)
    anchor_views = undistorted_views(config, config.gram_scale)

    def init_params(rng, batch):
        params, buffers = init_all(config, net, names, teacher, rng, view(batch))
        return params, buffers | (anchor.init(params) if anchor else {})

    def forward(params, state, batch, rng):
        rng_view, rng_mask, rng_net = jax.random.split(rng, 3)
        buffers = state.buffers
        x = crops(rng_view, batch)
        mask, index, weight = sample_masks(rng_mask, len(x["global"]))
        rngs = {"drop_path": rng_net}
        masking = {"mask": mask, "mask_token": params["mask_token"]}
        tokens = encode(encoder, params["encoder"], x["global"], rngs, **masking)
        outputs, stats = project(params, buffers["stats"], tokens, index)
        outputs |= {"weight": weight, "class_token": tokens[:, 0]}
        if "local" in x:
            outputs["local"], stats = project_local(net, params, stats, x["local"], rngs)
        if anchor:
            outputs["patches"] = masked_image.patch_tokens(encoder, tokens)
            outputs["anchor"] = anchor.patches(buffers, anchor_views(rng_view, batch), side)
        outputs["teacher"], teacher_stats = project_teacher(
            teacher.net.modules["encoder"], project, buffers, x["global"], index
        )
        return outputs, buffers | {"stats": stats, "teacher_stats": teacher_stats}

    def loss(params, outputs, state, batch, rng):
        layers = params["prototypes"]
        teacher_layers = state.buffers["teacher"]["prototypes"]
        center = state.buffers["center"]
        class_loss, class_center, p = class_token_loss(
            config, outputs, layers["head"], teacher_layers["head"], center["cls"], state.step
        )
        name = names[-1]
        patch_loss, patch_center = masked_patch_loss(
            config, outputs, layers[name], teacher_layers[name], center["patch"], state.step
        )
        metrics = monitor(state.step, *split_views(outputs["teacher"]["cls"])) | entropy(p)
        metrics |= {"cls_loss": class_loss, "patch_loss": patch_loss}
        metrics["ema_decay"] = teacher.decay(state)
        value = class_loss + patch_loss
        if config.koleo_weight:
            view_a, view_b = split_views(outputs["class_token"])
            metrics["koleo"] = koleo(view_a) + koleo(view_b)  # a sum, as in DINOv2
            value = value + config.koleo_weight * metrics["koleo"]
        if anchor:
            gram_value, gram_metrics = anchor.loss(
                outputs["patches"], outputs["anchor"], state.step
            )
            value = value + gram_value
            metrics |= gram_metrics
        center = {"cls": class_center, "patch": patch_center}
        return value, (state.buffers | {"center": center}, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, buffers["teacher"]["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        return render_patches(config, encoder, project, params, buffers, view(batch), rng)

    def before_update(state, rng):
        state = teacher.update(state, rng)
        return anchor.update(state) if anchor else state

    return split_objective(
        init_params,
        forward,
        loss,
        embed,
        before_update=before_update,
        render=render,
        embeds="teacher",
    )


def init_all(
    config: Config,
    net: EncoderWithHeads,
    names: list[str],
    teacher: ema.Teacher,
    rng: Array,
    images: Array,
) -> tuple[Params, Buffers]:
    """The parameters and the buffers at step 0; the mask token is zero
    (models/vision_transformer.py:172)."""
    rngs = jax.random.split(rng, 5)
    encoder = net.modules["encoder"]
    encoder_params, _ = init(encoder, rngs[0], images)
    params = {"encoder": encoder_params, "prototypes": {}}
    stats = {"encoder": {}}
    tokens = jnp.zeros((2, encoder.dim))
    width = config.head.features[-1]
    for i, name in enumerate(names):
        params[name], stats[name] = init(net.modules[name], rngs[1 + i], tokens)
        layer = prototypes.init_prototypes(rngs[3 + i], config.out_dim, width)
        params["prototypes"][name] = layer
    params["mask_token"] = jnp.zeros(encoder.dim)
    center = {"cls": jnp.zeros(config.out_dim), "patch": jnp.zeros(config.out_dim)}
    return params, {"stats": stats, "center": center} | teacher.init(params, stats)


def encode(
    encoder: Module, params: Params, images: Array, rngs: dict[str, Array], **masking: Array
) -> Array:
    """The student's tokens, float32 [B, P + N, D]."""
    tokens, _ = apply(encoder, params, {}, images, train=True, rngs=rngs, **masking)
    return tokens.astype(jnp.float32)


def mask_sampler(config: Config, grid: int) -> Callable:
    """f(rng, num_views) -> (mask bool [V, N], index int32 [V, M], weight float32 [V, M]).

    `index` are the masked patches, padded to the largest number of them; `weight` is 0 for padding.
    """
    num_patches = grid**2
    low, high = config.mask_range
    most = masked_image.num_masked(high, num_patches)

    def sample(rng, num_views):
        rng_is_masked, rng_ratio, rng_mask = jax.random.split(rng, 3)
        ratio = low + (high - low) * jax.random.uniform(rng_ratio, (num_views,))
        is_masked = jax.random.uniform(rng_is_masked, (num_views,)) < config.mask_probability
        count = jnp.where(is_masked, jnp.round(ratio * num_patches), 0).astype(jnp.int32)
        mask = beit_mask(rng_mask, num_views, grid, count, config.min_block_patches, most)
        weight = (jnp.arange(most) < count[:, None]).astype(jnp.float32)
        return mask, mask_to_indices(mask, most), weight

    return sample


def apply_head(
    net: EncoderWithHeads, name: str, params: Params, stats: Buffers, x: Array
) -> tuple[Array, Buffers]:
    """(unit rows [..., d], stats) of a head for tokens [..., D]."""
    rows = x.reshape(-1, x.shape[-1])
    z, stats = apply(net.modules[name], params, stats, rows, train=True)
    return l2_normalize(z).reshape(*x.shape[:-1], -1), stats


def project_local(
    net: EncoderWithHeads, params: Params, stats: Buffers, images: Array, rngs: dict[str, Array]
) -> tuple[Array, Buffers]:
    """Applies encoder and head to local crops [nB, h, w, C]. Returns (z [nB, d], stats)."""
    tokens = encode(net.modules["encoder"], params["encoder"], images, rngs=rngs)
    z, head_stats = apply_head(net, "head", params["head"], stats["head"], tokens[:, 0])
    return z, stats | {"head": head_stats}


def project_tokens(net: EncoderWithHeads, patch_head: str) -> Callable:
    """f(params, stats, tokens [V, P + N, D], index [V, M]) -> ({"cls": [V, d], "patch": [V, M, d]},
    stats): applies the heads to the class token and to the patches `index`."""
    encoder: Any = net.modules["encoder"]

    def project(params, stats, tokens, index):
        z_class, head_stats = apply_head(net, "head", params["head"], stats["head"], tokens[:, 0])
        stats = stats | {"head": head_stats}
        patches = masked_image.patch_tokens(encoder, tokens)
        patches = jnp.take_along_axis(patches, index[..., None], axis=1)
        z_patch, patch_stats = apply_head(
            net, patch_head, params[patch_head], stats[patch_head], patches
        )
        return {"cls": z_class, "patch": z_patch}, stats | {patch_head: patch_stats}

    return project


def project_teacher(
    encoder: Module, project: Callable, buffers: Buffers, images: Array, index: Array
) -> tuple[dict[str, Array], Buffers]:
    """Applies the teacher to whole global views [V, h, w, C]; see `project_tokens`."""
    tokens, _ = apply(encoder, buffers["teacher"]["encoder"], {}, images, train=True)
    return project(buffers["teacher"], buffers["teacher_stats"], tokens, index)


def class_token_loss(
    config: Config,
    outputs: dict[str, Array],
    layer: dict[str, Array],
    teacher_layer: dict[str, Array],
    center: Array,
    step: Array,
) -> tuple[Array, Array, Array]:
    """DINO's loss on class tokens.

    Args:
      config: the whole config.
      outputs: of `forward`: "cls" [V, d], the same of "teacher", and, with local crops, "local"
        [nB, d].
      layer, teacher_layer: the prototypes of student and teacher.
      center: [K], of the teacher's logits.
      step: int32 [].

    Returns:
      (loss [], the new center [K], the teacher's distributions [V, K]).
    """
    teacher_logits = jax.lax.stop_gradient(
        prototype_logits(teacher_layer, outputs["teacher"]["cls"])
    )
    weight = jnp.ones(len(teacher_logits))
    temperature = teacher_temperature(config, step)
    p = teacher_assignments(config, teacher_logits, center, temperature, weight)

    def student_logits(z):
        return prototype_logits(layer, z) / config.temperature

    local_logits = student_logits(outputs["local"]) if "local" in outputs else None
    value = cross_view_cross_entropy(student_logits(outputs["cls"]), local_logits, p)
    center = update_center(config, center, weighted_mean(teacher_logits, weight))
    return value, center, p


def masked_patch_loss(
    config: Config,
    outputs: dict[str, Array],
    layer: dict[str, Array],
    teacher_layer: dict[str, Array],
    center: Array,
    step: Array,
) -> tuple[Array, Array]:
    """The cross-entropy on masked patches.

    Patches of weight 0 do not count, as in DINOv2. In iBOT's code the center is the mean over all
    patches, masked or not.

    Args:
      config: the whole config.
      outputs: of `forward`: "patch" [V, M, d], the same of "teacher", and "weight" [V, M].
      layer, teacher_layer, center, step: as in `class_token_loss`.

    Returns:
      (loss [], the new center [K]).
    """
    weight = outputs["weight"]
    width = outputs["patch"].shape[-1]
    teacher_logits = jax.lax.stop_gradient(
        prototype_logits(teacher_layer, outputs["teacher"]["patch"].reshape(-1, width))
    )
    temperature = teacher_temperature(config, step)
    p = teacher_assignments(config, teacher_logits, center, temperature, weight.ravel())
    logits = prototype_logits(layer, outputs["patch"].reshape(-1, width)) / config.temperature
    nll = -(p * jax.nn.log_softmax(logits)).sum(-1).reshape(weight.shape)
    per_view = (nll * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    center = update_center(config, center, weighted_mean(teacher_logits, weight.ravel()))
    return per_view.mean(), center


def render_patches(
    config: Config,
    encoder: ViT,
    project: Callable,
    params: Params,
    buffers: Buffers,
    images: Array,
    rng: Array,
) -> dict[str, Panel]:
    """Pictures of the prediction: original | masked | patches with the nearest teacher features.

    project: of `project_tokens`. images: [B, H, W, C]. Returns {"masked": panel}.
    """
    grid = masked_image.grid_side(config, encoder)
    most = masked_image.num_masked(config.mask_range[1], grid**2)
    mask = beit_mask(rng, len(images), grid, most, config.min_block_patches, most)
    all_patches = jnp.tile(jnp.arange(grid**2), (len(images), 1))
    token = params["mask_token"]
    tokens, _ = apply(
        encoder, params["encoder"], {}, images, train=False, mask=mask, mask_token=token
    )
    teacher_tokens, _ = apply(encoder, buffers["teacher"]["encoder"], {}, images, train=False)
    student_out, _ = project(params, buffers["stats"], tokens, all_patches)
    teacher_out, _ = project(
        buffers["teacher"], buffers["teacher_stats"], teacher_tokens, all_patches
    )
    patches = patchify(images, encoder.patch)
    guess = masked_image.nearest_patches(student_out["patch"], teacher_out["patch"], patches)
    picture = masked_image.reconstruction_panel(config, encoder, patches, mask, guess)
    return {"masked": picture}
