"""Jigsaw-ViT: "Jigsaw-ViT: Learning Jigsaw Puzzles in Vision Transformer"
(Chen, Shen, Liu, Tao, Suykens; Pattern Recognition Letters 2023; arXiv 2207.11971). The same task
alone is MP3: "Position Prediction as an Effective Pretraining Strategy" (Zhai et al.; ICML 2022;
arXiv 2207.07611).

An image is cut into the tiles of a grid, with random gaps between them, and the tiles are shuffled.
Each tile is one patch of a ViT. From the token of each patch, a head tells the place that the patch
had in the image.

Reference code: yingyichen-cyy/JigsawViT. Differences: there the patches have no gaps, are not
normalized one by one, are partly left out, and have no positions at all. Here a patch gets the
position of the place to which it was moved. This position tells nothing of the place that it had,
and the encoder is an ordinary ViT afterwards.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError
from jssl.config.values import Pixels, Range
from jssl.core import DatasetInfo, Objective, Panel
from jssl.losses import cross_entropy
from jssl.metrics import monitor_from_config
from jssl.nn import apply, heads, masked_image
from jssl.transforms.pictures import to_pixels
from jssl.transforms.pretext import join_tiles, normalize_tiles, take_tiles, tile_cutter

KEYS = {
    "grid": Annotated[int, Range(2, 64), "tiles along a side of an image"],
    "tile": Annotated[Pixels, "side of a tile, in pixels; equal to model.patch"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    places = config.grid**2
    check_patch(config)
    of_tiles = config.changed({"augment.size": config.grid * config.tile})
    encoder = masked_image.vit_from_config(of_tiles)
    cut = tile_cutter(config, config.grid)
    head = heads.classifier(config, places)
    random_view = masked_image.train_view(config)
    view = masked_image.eval_view(config)
    monitor = monitor_from_config(config)

    def shuffled_tiles(rng, batch):  # -> (tiles in place, shuffled tiles, their places int [B, N])
        rng_view, rng_cut, rng_shuffle = jax.random.split(rng, 3)
        tiles = cut(rng_cut, random_view(rng_view, batch))
        order = jnp.argsort(jax.random.uniform(rng_shuffle, (len(tiles), places)), axis=1)
        return tiles, take_tiles(tiles, order), order

    def init_params(rng, batch):
        rng_encoder, rng_head = jax.random.split(rng)
        _, tiles, _ = shuffled_tiles(rng, batch)
        params, _ = apply.init(encoder, rng_encoder, join_tiles(tiles))
        head_params, stats = apply.init(head, rng_head, jnp.zeros((places, encoder.dim)))
        return {"encoder": params, "head": head_params}, {"stats": stats}

    def solve(params, stats, tiles, train, rng=None):  # -> (logits [B N, N], tokens, stats)
        images = join_tiles(normalize_tiles(tiles))
        rngs = None if rng is None else {"drop_path": rng}
        tokens, _ = apply.apply(encoder, params["encoder"], {}, images, train=train, rngs=rngs)
        of_patches = masked_image.patch_tokens(encoder, tokens).reshape(-1, encoder.dim)
        logits, stats = apply.apply(head, params["head"], stats, of_patches, train=train)
        return logits, tokens, stats

    def loss(params, state, batch, rng):
        rng_tiles, rng_net = jax.random.split(rng)
        _, tiles, order = shuffled_tiles(rng_tiles, batch)
        logits, tokens, stats = solve(params, state.buffers["stats"], tiles, True, rng_net)
        value, top1 = cross_entropy(logits, order.reshape(-1))
        metrics = monitor(state.step, encoder.features(tokens)) | {"jigsaw_top1": top1}
        return value, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return masked_image.embed_images(encoder, params["encoder"], view(batch))

    def render(params, buffers, batch, rng):
        tiles, shuffled, _ = shuffled_tiles(rng, batch)
        logits, _, _ = solve(params, buffers["stats"], shuffled, train=False)
        claims = jax.nn.log_softmax(logits).reshape(-1, places, places)  # [B, tile, place]
        columns = (tiles, shuffled, take_tiles(shuffled, claims.argmax(1)))
        images = tuple(to_pixels(config, join_tiles(column)) for column in columns)
        captions = ("tiles in place", "shuffled", "likeliest tile of each place")
        return {"jigsaw": Panel(images, captions)}

    return Objective(init_params, loss, embed, render)


def check_patch(config: Config) -> None:
    """Raises `UserError` unless a tile is a patch of the ViT."""
    if config.tile != config.model.patch:
        raise ConfigError(
            "config.tile",
            config.tile,
            f"differs from --config.model.patch={config.model.patch}",
            f"set it to {config.model.patch}",
        )
