"""The Vision Transformers of a config: published sizes, and the section `model`."""

from typing import Annotated

import jax.numpy as jnp

from jssl.config import ConfigError
from jssl.config.values import NonNegative, Pixels, Positive, Range, Rate, Whole
from jssl.nn import check_choice
from jssl.nn.attention import ATTENTION
from jssl.nn.transformer import FEED_FORWARD, INITIALIZERS, REMAT, BlockConfig, residual
from jssl.nn.vit_encoder import ViT

SIZES = {  # dim, depth, heads: arXiv:2010.11929, table 1; Ti and S: DeiT, arXiv:2012.12877, table 1
    "vit_test": (32, 2, 2),
    "vit_micro": (128, 6, 4),  # not published: for small machines
    "vit_ti": (192, 12, 3),
    "vit_s": (384, 12, 6),
    "vit_b": (768, 12, 12),
    "vit_l": (1024, 24, 16),
    "vit_h": (1280, 32, 16),
    "vit_g": (1536, 40, 24),  # DINOv2's giant: facebookresearch/dinov2 models/vision_transformer.py
    "vit_7b": (4096, 40, 32),  # DINOv3: facebookresearch/dinov3 models/vision_transformer.py
}
Rescale = Annotated[float, Range(1, 100)]


def build(
    *,
    name: str,
    patch: Pixels,
    image_size: Pixels,
    class_token: bool,
    pool: str,
    positions: str,
    drop_path: Rate,
    remat: str,
    scan: bool,
    attention: str,
    init: str,
    dtype: str,
    residual_dtype: str,
    registers: Whole = 0,
    norm_eps: Positive = 1e-6,
    layer_scale: NonNegative = 0.0,
    feed_forward: str = "gelu",
    mlp_width: Whole = 0,
    key_bias: bool = True,
    rope_rescale: Rescale = 1.0,
) -> ViT:
    """A ViT from a config's `model` section.

    Args:
      name: network: vit_micro, vit_ti, vit_s, vit_b, vit_l, vit_h, vit_g or vit_7b. vit_micro is
        for small machines; vit_test is for tests.
      patch: side of a patch, in pixels.
      image_size: side of the images for which there are positions, in pixels. "learned" positions
        are resized for other sizes.
      class_token: the first token is a learned class token.
      pool: features of an image: "cls", the class token, or "mean" of the patch tokens. See
        `ViT.features`.
      positions: position embeddings: "sincos" (fixed), "learned", or "rotary" for any size.
        "sincos" is MAE's; "learned" is timm's, drawn from N(0, .02); "rotary" is DINOv3's.
      drop_path: rate of stochastic depth of the last block; it grows from 0 at the first. See
        `jssl.nn.transformer.Blocks`.
      remat: recomputed in the backward pass: "none", "full" (blocks), "dots" (all but Dense). See
        `jssl.nn.transformer.REMAT`.
      scan: compile one block and run it for all layers by lax.scan. It compiles faster and moves
        more bytes (benchmarks/NOTES.md). See `jssl.nn.transformer.Blocks`.
      attention: kernel: "xla", "recompute", "cudnn", or "auto", which chooses by device. See
        `jssl.nn.attention`.
      init: initial weights: "xavier" (MAE), "trunc02" (timm), "normal02" (I-JEPA), "beit".
        "normal02" is N(0, .02), patches too. "beit" (BEiT, data2vec, SimMIM) is as "normal02", but
        cut at .02, and smaller in the last layers of the branches of deep blocks (`ViT.finish`).
        Biases start at zero.
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      residual_dtype: dtype of the residual stream, "float32" or "bfloat16". See
        `jssl.nn.transformer.residual`.
      registers: register tokens after the class token, which have no position. Darcet et al.:
        4.
      norm_eps: epsilon of the LayerNorms. DINOv3: 1e-5; Hugging Face's ViT: 1e-12.
      layer_scale: first value of layer scale, a factor of each feature of each branch; 0: none.
        DINOv2 and DINOv3: 1e-5.
      feed_forward: layers of a block after attention: "gelu" or "swiglu". See
        `jssl.nn.transformer.FeedForward`.
      mlp_width: width of the hidden layer of a feed-forward network; 0: 4 times the encoder's.
      key_bias: the keys of attention have a bias. DINOv3 and BEiT have none.
      rope_rescale: largest factor of the patches' coordinates in training, for "rotary"; 1: off.
        DINOv3: 2.

    Raises:
      UserError: any other choice, a patch that does not divide the image size, or pool "cls"
        without a class token.
    """
    dim, depth, heads = SIZES[check_choice("name", name, SIZES)]
    check(patch, image_size, class_token, check_choice("pool", pool, ("cls", "mean")), drop_path)
    if rope_rescale > 1 and positions != "rotary":
        raise ConfigError(
            "config.model.rope_rescale",
            rope_rescale,
            f"means nothing to --config.model.positions={positions!r}",
            "set it to 1.0",
        )
    style = BlockConfig(
        eps=norm_eps,
        key_bias=key_bias,
        feed_forward=check_choice("feed_forward", feed_forward, FEED_FORWARD),
        layer_scale=layer_scale,
    )
    return ViT(
        dim=dim,
        depth=depth,
        heads=heads,
        patch=patch,
        image_size=image_size,
        class_token=class_token,
        registers=registers,
        pool=pool,
        positions=check_choice("positions", positions, ("sincos", "learned", "rotary")),
        rope_rescale=rope_rescale,
        mlp_width=mlp_width or 4 * dim,
        style=style,
        drop_path=drop_path,
        remat=check_choice("remat", remat, REMAT),
        scan=scan,
        attention=check_choice("attention", attention, ATTENTION),
        init_name=check_choice("init", init, INITIALIZERS),
        dtype=jnp.dtype(check_choice("dtype", dtype, ("float32", "bfloat16"))),
        residual_dtype=residual(residual_dtype, dtype),
    )


def check(patch: int, image_size: int, class_token: bool, pool: str, drop_path: float) -> None:
    """Raises `UserError` for values out of range, and for values that contradict each other."""
    if patch < 1 or image_size < patch:
        raise ConfigError(
            "config.model.patch",
            patch,
            f"must be 1 to --config.model.image_size={image_size}",
            "try 16",
        )
    if image_size % patch:
        below = image_size // patch * patch
        sizes = f"{below} or {below + patch}"
        raise ConfigError(
            "config.model.patch",
            patch,
            f"does not divide --config.model.image_size={image_size}",
            f"try {sizes}",
        )
    if pool == "cls" and not class_token:
        raise ConfigError(
            "config.model.pool",
            "cls",
            "needs --config.model.class_token=True",
            "set it, or use pool='mean'",
        )
    if not 0 <= drop_path < 1:
        raise ConfigError(
            "config.model.drop_path", drop_path, "must be at least 0 and below 1", "try 0.1"
        )
