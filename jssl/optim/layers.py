"""Learning rates that decrease from layer to layer of an encoder, towards its input."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any


def decay_layers(decay: float) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by its factor in `layer_scales`."""

    def scaled(updates, params):
        return jax.tree.map(jnp.multiply, updates, layer_scales(updates, decay))

    return optax.stateless(scaled)


def layer_scales(params: Tree, decay: float) -> Tree:
    """Returns the factor of the learning rate of each parameter: decay ** (depth + 1 - layer).

    ViT (BEiT; MAE's util/lr_decay.py; DINOv2's utils/param_groups.py): embeddings are layer 0
    (BERT's norm too), block i is i + 1, the last norm and all that is outside the encoder are
    depth + 1. ResNet (not published): the stem is 0, the stages are 1 to 4, the rest is 5.

    Args:
      params: {"encoder": ..., "head": ...}.
      decay: the factor from one layer to the layer below.
    """
    last_norm = "" if "type_embed" in params.get("encoder", {}) else "encoder/norm/"

    def layer(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if match := re.match(r"encoder/(?:blocks/(\d+)/|layer(\d+)_)", name):
            return 1 + int(match[1]) if match[1] else int(match[2])
        if name.startswith("encoder/blocks/layers/"):  # stacked: model.scan
            return 1 + np.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1))
        is_last = not name.startswith("encoder/") or (last_norm and name.startswith(last_norm))
        return math.inf if is_last else 0

    layers = jax.tree_util.tree_map_with_path(layer, params)
    inside = [np.max(x) for x in jax.tree.leaves(layers) if np.max(x) < math.inf]
    last = 1 + max(inside, default=0)  # a generator has no encoder
    return jax.tree.map(lambda x: np.float32(decay ** (last - np.minimum(x, last))), layers)
