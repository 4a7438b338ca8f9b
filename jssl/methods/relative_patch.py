"""Relative patch location: "Unsupervised Visual Representation Learning by Context Prediction"
(Doersch, Gupta, Efros; ICCV 2015; arXiv 1505.05192), section 3.

An image is cut into 3 x 3 tiles with random gaps between them. The network sees the tile in the
center and one of its eight neighbors, and tells which neighbor it is. Both go through the same
encoder, and `config.head` gets their features side by side. All eight pairs of an image are used.

A lens shifts colors towards the border of a photo, which tells the place of a tile. So the paper
drops two of three channels of each tile, or removes the axis from green to magenta
(`config.color`).

Reference code: open-mmlab/mmselfsup configs/selfsup/relative_loc, where two of three images are
gray instead (`augment.gray_prob`). Differences: each tile is normalized by its own mean and
deviation, and the center is encoded once and not in each of its pairs. mmselfsup has dropout in the
head, and five times the weight decay there. The paper's network is an AlexNet for each tile, and it
also shrinks some tiles to as few as 100 pixels.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jssl.config import Config, ConfigError
from jssl.config.values import Pixels
from jssl.core import DatasetInfo, Objective, Panel
from jssl.losses import cross_entropy
from jssl.metrics import monitor_from_config
from jssl.nn import apply, heads
from jssl.nn.masked_image import eval_view, train_view
from jssl.transforms.pictures import to_pixels
from jssl.transforms.pretext import (
    drop_colors,
    join_tiles,
    normalize_tiles,
    project_colors,
    take_tiles,
    tile_cutter,
)

GRID = 3
CENTER = 4
KEYS = {
    "tile": Annotated[Pixels, "side of a tile, in pixels"],
    "color": Annotated[
        Literal["drop", "project", "keep"],
        "colors of a tile: one channel, all but the axis from green to magenta, or all",
    ],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    check_color(config)
    cut = tile_cutter(config, GRID)
    random_view = train_view(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    trunk = heads.chain(config)
    head = heads.classifier(config, classes=8)

    def cut_tiles(rng, batch):  # -> (tiles as they are, tiles for the network), [B, 9, t, t, C]
        rng_view, rng_cut, rng_color = jax.random.split(rng, 3)
        images = random_view(rng_view, batch)
        tiles = cut(rng_cut, images)
        if config.color == "project":
            return tiles, normalize_tiles(project_colors(to_pixels(config, tiles)))
        inputs = normalize_tiles(tiles)
        return tiles, drop_colors(rng_color, inputs) if config.color == "drop" else inputs

    def init(rng, batch):
        rng_trunk, rng_head = jax.random.split(rng)
        _, tiles = cut_tiles(rng, batch)
        params, stats = trunk.init(rng_trunk, tiles[:, 0])
        features = jax.eval_shape(lambda: trunk.embed(params, stats, tiles[:, 0]))
        pairs = jnp.zeros((8, 2 * features.shape[1]))
        params["head"], stats["head"] = apply.init(head, rng_head, pairs)
        return params, {"stats": stats}

    def locate(params, stats, tiles, train, rng=None):  # -> (logits [8B, 8], centers, stats)
        x = tiles.reshape(-1, *tiles.shape[2:])
        out, new_stats = trunk(params, stats, x, train=train, rng=rng)
        features = out["encoder"].reshape(len(tiles), GRID**2, -1)
        center = features[:, CENTER]
        neighbors = without_center(features)
        repeated = jnp.broadcast_to(center[:, None], neighbors.shape)
        pairs = jnp.concatenate([repeated, neighbors], axis=2).reshape(-1, 2 * center.shape[1])
        logits, new_stats["head"] = apply.apply(
            head, params["head"], stats["head"], pairs, train=train
        )
        return logits, center, new_stats

    def loss(params, state, batch, rng):
        rng_tiles, rng_net = jax.random.split(rng)
        _, tiles = cut_tiles(rng_tiles, batch)
        logits, center, stats = locate(params, state.buffers["stats"], tiles, True, rng_net)
        value, top1 = cross_entropy(logits, jnp.arange(len(logits)) % 8)
        metrics = monitor(state.step, center) | {"location_top1": top1}
        return value, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return trunk.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        tiles, inputs = cut_tiles(rng, batch)
        logits, _, _ = locate(params, buffers["stats"], inputs, train=False)
        claims = jax.nn.log_softmax(logits).reshape(-1, 8, 8)  # [B, neighbor, place]
        placed = take_tiles(without_center(tiles), claims.argmax(1))
        placed = jnp.concatenate(
            [placed[:, :CENTER], tiles[:, CENTER : CENTER + 1], placed[:, CENTER:]], axis=1
        )
        columns = [to_pixels(config, join_tiles(x)) for x in (tiles, placed)]
        columns.insert(1, 0.5 + join_tiles(inputs) / 6)
        captions = ("tiles in place", "inputs", "likeliest tile of each place")
        return {"relative_patch": Panel(tuple(columns), captions)}

    return Objective(init, loss, embed, render)


def without_center(tiles: jax.Array) -> jax.Array:
    """The eight neighbors of the center, in reading order: [B, 9, ...] -> [B, 8, ...]."""
    return jnp.concatenate([tiles[:, :CENTER], tiles[:, CENTER + 1 :]], axis=1)


def check_color(config: Config) -> None:
    """Raises `UserError` if the images are not RGB and their colors change."""
    if config.color != "keep" and config.data.channels != 3:
        problem = f"needs RGB, and the images have --config.data.channels={config.data.channels}"
        raise ConfigError("config.color", config.color, problem, "set it to 'keep'")
