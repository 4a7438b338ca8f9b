"""Jigsaw: "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles"
(Noroozi, Favaro; ECCV 2016; arXiv 1603.09246), section 3.

An image is cut into a grid of tiles with random gaps between them. The tiles are shuffled by one of
`config.num_permutations` permutations, which differ in many places. All tiles go through the same
network, one by one. A head sees the features of all tiles, in order, and names the permutation.

Shortcuts are closed as in the paper. Gaps hide edges that continue from tile to tile. Each tile is
normalized by itself, which hides its brightness. Gray images (`augment.gray_prob`) hide the colors
that a lens shifts towards the border.

Reference code: facebookresearch/vissl configs/config/pretrain/jigsaw. As there, each tile has a
layer with BatchNorm and ReLU (`config.patch_head`), and `config.head` gets the concatenation.
Differences: the set of permutations (`jssl.transforms.permutations`). VISSL normalizes by the mean
of the data set, not by that of the tile. The paper also shifts the color channels of a tile against
each other.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jssl.config import Config
from jssl.config.values import Count, Pixels, Range
from jssl.core import DatasetInfo, Objective, Panel
from jssl.losses import cross_entropy
from jssl.metrics import monitor_from_config
from jssl.nn import apply, heads
from jssl.nn.masked_image import eval_view, train_view
from jssl.transforms.permutations import from_config
from jssl.transforms.pictures import to_pixels
from jssl.transforms.pretext import join_tiles, normalize_tiles, take_tiles, tile_cutter

KEYS = {
    "grid": Annotated[int, Range(2, 3), "tiles along a side of an image"],
    "tile": Annotated[Pixels, "side of a tile, in pixels"],
    "num_permutations": Annotated[Count, "number of permutations, the classes of head"],
}


def build(config: Config, data_info: DatasetInfo) -> Objective:
    """See the module; `config` is the whole config."""
    permutations = from_config(config)
    cut = tile_cutter(config, config.grid)
    random_view = train_view(config)
    view = eval_view(config)
    monitor = monitor_from_config(config)
    trunk = heads.chain(config, "patch_head")
    head = heads.classifier(config, config.num_permutations)

    def shuffled_tiles(rng, batch):  # -> (tiles in place, shuffled tiles, permutation int [B])
        rng_view, rng_cut, rng_shuffle = jax.random.split(rng, 3)
        tiles = cut(rng_cut, random_view(rng_view, batch))
        permutation = jax.random.randint(rng_shuffle, (len(tiles),), 0, len(permutations))
        return tiles, take_tiles(tiles, permutations[permutation]), permutation

    def init(rng, batch):
        rng_trunk, rng_head = jax.random.split(rng)
        _, tiles, _ = shuffled_tiles(rng, batch)
        params, stats = trunk.init(rng_trunk, tiles[:, 0])
        together = jnp.zeros((len(tiles), tiles.shape[1] * config.patch_head.features[-1]))
        params["head"], stats["head"] = apply.init(head, rng_head, together)
        return params, {"stats": stats}

    def solve(params, stats, tiles, train, rng=None):  # -> (logits, features of a tile, stats)
        x = normalize_tiles(tiles).reshape(-1, *tiles.shape[2:])
        out, new_stats = trunk(params, stats, x, train=train, rng=rng)
        together = jax.nn.relu(out["patch_head"]).reshape(len(tiles), -1)
        logits, new_stats["head"] = apply.apply(
            head, params["head"], stats["head"], together, train=train
        )
        return logits, out["encoder"][:: tiles.shape[1]], new_stats

    def loss(params, state, batch, rng):
        rng_tiles, rng_net = jax.random.split(rng)
        _, tiles, permutation = shuffled_tiles(rng_tiles, batch)
        logits, features, stats = solve(params, state.buffers["stats"], tiles, True, rng_net)
        value, top1 = cross_entropy(logits, permutation)
        metrics = monitor(state.step, features) | {"jigsaw_top1": top1}
        return value, ({"stats": stats}, metrics)

    def embed(params, buffers, batch):
        return trunk.embed(params, buffers["stats"], view(batch))

    def render(params, buffers, batch, rng):
        tiles, shuffled, _ = shuffled_tiles(rng, batch)
        logits, _, _ = solve(params, buffers["stats"], shuffled, train=False)
        way_back = jnp.argsort(permutations[logits.argmax(1)], axis=1)
        columns = (tiles, shuffled, take_tiles(shuffled, way_back))
        images = tuple(to_pixels(config, join_tiles(column)) for column in columns)
        return {"jigsaw": Panel(images, ("tiles in place", "shuffled", "solved"))}

    return Objective(init, loss, embed, render)
