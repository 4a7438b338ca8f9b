"""Pure functions around Flax modules: variables in, variables out, as plain pytrees.

Losses and steps use only `init` and `apply`, so they do not depend on the module library.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.parallel.mesh import shard_batch

Tree = dict[str, Any]


def init(module: nn.Module, rng: Array, *args: Any, **kw: Any) -> tuple[Tree, Tree]:
    """Draws the parameters of a module.

    The module runs in evaluation mode: parameters do not depend on the mode, and no other random
    stream is needed. If the module has a method `finish`, it maps the drawn parameters to the
    initial ones.

    Args:
      module: a Linen module whose call takes `train`.
      rng: a random key.
      *args, **kw: arguments of the module's call; only their shapes matter.

    Returns:
      (params, stats). `stats` holds the BatchNorm running statistics, `{}` if there are none.
    """
    variables: Any = module.init(rng, *args, **{"train": False, **kw})
    params = variables.get("params", {})
    finish = getattr(module, "finish", None)
    if finish is not None:
        params = finish(params)
    return params, variables.get("batch_stats", {})


def apply(
    module: nn.Module,
    params: Tree,
    stats: Tree,
    *args: Any,
    train: bool,
    rngs: dict[str, Array] | None = None,
    **kw: Any,
) -> tuple[Any, Tree]:
    """Calls a module.

    Args:
      module: a Linen module whose call takes `train`.
      params, stats: as `init` returns them.
      *args, **kw: arguments of the module's call.
      train: BatchNorm uses the statistics of this batch, and updates the running statistics. False:
        BatchNorm uses `stats`.
      rngs: the random streams that a training pass needs, as in ``{"drop_path": key}``.

    Returns:
      (output, stats). Without `train`, `stats` is returned unchanged.
    """
    variables = {"params": params, "batch_stats": stats} if stats else {"params": params}
    run = partial(module.apply, variables, *args, train=train, rngs=rngs, **kw)
    if not (train and stats):
        return run(), stats
    updated: Any
    out, updated = run(mutable=["batch_stats"])
    return out, updated["batch_stats"]


class EncoderWithHeads(NamedTuple):
    """Modules in sequence: {"encoder": ..., "head": ..., "predictor": ...}.

    Parameters and statistics are dicts with the same names. The module after the encoder gets the
    pooled features of the encoder.
    """

    modules: dict[str, nn.Module]

    def init(self, rng: Array, x: Array) -> tuple[Tree, Tree]:
        """Draws (params, stats) for inputs of the shape of x."""
        params = {}
        stats = {}
        for name, key in zip(self.modules, jax.random.split(rng, len(self.modules)), strict=True):
            params[name], stats[name] = init(self.modules[name], key, x)
            run = partial(self._apply, name, params[name], stats[name], train=False, rng=None)
            shape = jax.eval_shape(lambda x, run=run: run(x)[0], x)
            x = jnp.zeros(shape.shape, shape.dtype)
        return params, stats

    def __call__(
        self, params: Tree, stats: Tree, x: Array, train: bool, rng: Array | None = None
    ) -> tuple[dict[str, Array], Tree]:
        """Runs all modules on x.

        `rng` is for stochastic depth, if the encoder has it. Returns ({name: output}, stats).
        """
        outputs = {}
        updated = {}
        for name in self.modules:
            x, updated[name] = self._apply(name, params[name], stats[name], x, train, rng)
            outputs[name] = x
        return outputs, updated

    def multi_crop(
        self, params: Tree, stats: Tree, crops: dict[str, Array], rng: Array
    ) -> tuple[dict[str, dict[str, Array]], Tree]:
        """Runs crops of several sizes, {size: [N, H, W, C]}, in training mode.

        The crops of each size go through the encoder separately. All crops together go through the
        modules after it, so that the BatchNorm of a head sees all crops (facebookresearch/swav
        resnet50.py `forward`). Returns ({size: {name: output}}, stats).
        """
        first, *rest = self.modules
        outputs = {}
        stats = dict(stats)
        for i, (size, x) in enumerate(crops.items()):
            key = jax.random.fold_in(rng, i)
            h, stats[first] = self._apply(first, params[first], stats[first], x, True, key)
            outputs[size] = {first: h}
        x = jnp.concatenate([of_size[first] for of_size in outputs.values()])
        ends = list(np.cumsum([len(of_size[first]) for of_size in outputs.values()])[:-1])
        for name in rest:
            x, stats[name] = self._apply(name, params[name], stats[name], x, True, rng)
            for size, rows in zip(outputs, jnp.split(x, ends), strict=True):
                outputs[size][name] = rows
        return outputs, stats

    def embed(self, params: Tree, stats: Tree, x: Array) -> Array:
        """The encoder's features of x in evaluation mode, float32 [B, D]."""
        encoder_only = EncoderWithHeads({"encoder": self.modules["encoder"]})
        outputs, _ = encoder_only(params, stats, x, train=False)
        return outputs["encoder"]

    def _apply(
        self, name: str, params: Tree, stats: Tree, x: Array, train: bool, rng: Array | None
    ) -> tuple[Array, Tree]:
        module: Any = self.modules[name]
        rngs = None if rng is None else {"drop_path": rng}
        x, stats = apply(module, params, stats, shard_batch(x), train=train, rngs=rngs)
        return (module.features(x) if name == "encoder" else x), stats
