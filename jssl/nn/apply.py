"""The plain boundary around Flax modules: variables in, variables out, all of them pytrees.

Losses and steps use only `init` and `apply`, so they know nothing of the module library.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.parallel.mesh import shard_batch

Tree = dict


def init(module: nn.Module, rng: Array, *args, **kw) -> tuple[Tree, Tree]:
    """(params, stats) of `module` for inputs shaped like `args`.

    `stats` holds the BatchNorm running statistics, `{}` if there are none. The module is run in
    evaluation mode: parameters never depend on the mode, and no other random stream is needed.
    Its method `finish`, if it has one, makes of the parameters as drawn those that it starts with.
    """
    variables = module.init(rng, *args, **{"train": False, **kw})
    params = variables.get("params", {})
    if hasattr(module, "finish"):
        params = module.finish(params)
    return params, variables.get("batch_stats", {})


def apply(module: nn.Module, params: Tree, stats: Tree, *args, train: bool, rngs=None, **kw):
    """(output, stats) of `module` on `args`.

    With `train`, BatchNorm uses the statistics of this batch and the new running statistics are
    returned; without, it uses `stats` and returns them as they came. `rngs` names the random
    streams that a training pass needs: ``{"drop_path": key}``.
    """
    variables = {"params": params, "batch_stats": stats} if stats else {"params": params}
    run = partial(module.apply, variables, *args, train=train, rngs=rngs, **kw)
    if not (train and stats):
        return run(), stats
    out, updated = run(mutable=["batch_stats"])
    return out, updated["batch_stats"]


class EncoderWithHeads(NamedTuple):
    """Modules that follow one another: {"encoder": ..., "head": ..., "predictor": ...}.

    Parameters and statistics are dicts with the same names. What follows an encoder gets its
    pooled features.
    """

    modules: dict[str, nn.Module]

    def init(self, rng: Array, x: Array) -> tuple[Tree, Tree]:
        """(params, stats) for inputs shaped like x."""
        params = {}
        stats = {}
        for name, key in zip(self.modules, jax.random.split(rng, len(self.modules)), strict=True):
            params[name], stats[name] = init(self.modules[name], key, x)
            one = partial(self._one, name, params[name], stats[name], train=False, rng=None)
            shape = jax.eval_shape(lambda x, one=one: one(x)[0], x)
            x = jnp.zeros(shape.shape, shape.dtype)
        return params, stats

    def __call__(self, params: Tree, stats: Tree, x: Array, train: bool, rng: Array | None = None):
        """({name: output}, stats) of x; `rng` drops paths, if the encoder does."""
        outputs = {}
        updated = {}
        for name in self.modules:
            x, updated[name] = self._one(name, params[name], stats[name], x, train, rng)
            outputs[name] = x
        return outputs, updated

    def multi_crop(self, params: Tree, stats: Tree, crops: dict[str, Array], rng: Array):
        """({size: {name: output}}, stats) of crops of several sizes in training mode: each size
        goes through the encoder by itself, and all together through what follows it, so that a
        head's BatchNorm sees all crops (facebookresearch/swav resnet50.py `forward`)."""
        first, *rest = self.modules
        found = {}
        stats = dict(stats)
        for i, (size, x) in enumerate(crops.items()):
            key = jax.random.fold_in(rng, i)
            h, stats[first] = self._one(first, params[first], stats[first], x, True, key)
            found[size] = {first: h}
        x = jnp.concatenate([one[first] for one in found.values()])
        ends = list(np.cumsum([len(one[first]) for one in found.values()])[:-1])
        for name in rest:
            x, stats[name] = self._one(name, params[name], stats[name], x, True, rng)
            for size, part in zip(found, jnp.split(x, ends), strict=True):
                found[size][name] = part
        return found, stats

    def embed(self, params: Tree, stats: Tree, x: Array) -> Array:
        """The encoder's features of x in evaluation mode, float32 [B, D]."""
        only = EncoderWithHeads({"encoder": self.modules["encoder"]})
        return only(params, stats, x, train=False)[0]["encoder"]

    def _one(self, name, params, stats, x, train, rng):
        module = self.modules[name]
        rngs = None if rng is None else {"drop_path": rng}
        x, stats = apply(module, params, stats, shard_batch(x), train=train, rngs=rngs)
        return (module.features(x) if name == "encoder" else x), stats
