"""The plain boundary around Flax modules: variables in, variables out, all of them pytrees.

Losses and steps use only `init` and `apply`, so they know nothing of the module library.
"""

from functools import partial

import flax.linen as nn
from jax import Array

Tree = dict


def init(module: nn.Module, rng: Array, *args, **kw) -> tuple[Tree, Tree]:
    """(params, stats) of `module` for inputs shaped like `args`.

    `stats` holds the BatchNorm running statistics, `{}` if there are none. The module is run in
    evaluation mode: parameters never depend on the mode, and no other random stream is needed.
    """
    variables = module.init(rng, *args, **{"train": False, **kw})
    return variables.get("params", {}), variables.get("batch_stats", {})


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
