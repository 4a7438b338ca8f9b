"""Features of a layer inside the encoder (`config.eval.layer`), for every method.

The last layers of an encoder may fit its pretraining task too well: pretext tasks are judged at
their best layer (Zhang et al. 2016, arXiv 1603.08511, section 3.2; Kolesnikov et al. 2019, arXiv
1901.09005, section 4). The layer is found by its name while `embed` of the method runs, so a method
needs no code for it. XLA leaves out what comes after the layer.
"""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError, suggest
from jssl.core import Batch, DatasetInfo, Method, TrainState
from jssl.nn.transformer import Blocks, unstack

EmbedFn = Callable[[TrainState, Batch], Array]
STAGE = re.compile(r"layer(\d+)_\d+")  # the blocks of a ResNet; the last one ends its stage


class Outputs:
    """The outputs of the named layers of an encoder: an interceptor of Flax modules.

    Attributes:
      found: {"stage1": feature map [B, h, w, C], ...} of a ResNet, {"block1": tokens [B, T, D],
        ...} of a transformer.
    """

    def __init__(self) -> None:
        self.found: dict[str, Array] = {}

    def __call__(
        self, run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        """Calls a method of a module, and keeps its output if the module is a named layer."""
        module = context.module
        if context.method_name != "__call__":
            return run(*args, **kwargs)
        if isinstance(module, Blocks) and (module.scan or module.remat != "none"):
            params: Any = module.variables["params"]
            plain = module.clone(scan=False, remat="none", parent=None)
            layers = unstack(params) if module.scan else params
            return plain.apply({"params": layers}, *args, **kwargs)
        out = run(*args, **kwargs)
        name = layer_name(module)
        if name:
            self.found[name] = out
        return out


def layer_name(module: nn.Module) -> str:
    """The name of a layer: "stage2" of a ResNet, "block5" of a transformer; "" of other modules."""
    own = module.name or ""
    if stage := STAGE.fullmatch(own):
        return f"stage{stage[1]}"
    if isinstance(module.parent, Blocks) and own.isdigit():
        return f"block{int(own) + 1}"
    return ""


def evaluated_layer(method: Method, config: Config, data_info: DatasetInfo) -> Method:
    """The method with the features of ``config.eval.layer``; as it is if that is empty.

    Raises:
      UserError: the examples are no images.
    """
    name = config.eval.layer
    if not name:
        return method
    if data_info.modality != "image":
        raise ConfigError("config.eval.layer", name, "is for images", "set it to ''")
    return method._replace(embed=at_layer(method.embed, name))


def at_layer(embed: EmbedFn, name: str) -> EmbedFn:
    """`embed` with the features of a named layer: its output, averaged over positions.

    Args:
      embed: embed(state, batch) -> [B, D] of a method.
      name: "stage1" ... of a ResNet, "block1" ... of a transformer.

    Returns:
      A function like `embed`, float32 [B, C]. It raises `UserError` while it is traced if the
      encoder has no such layer.
    """

    def features(state: TrainState, batch: Batch) -> Array:
        outputs = Outputs()
        with nn.intercept_methods(outputs):
            embed(state, batch)
        if name not in outputs.found:
            cure = suggest(name, outputs.found)
            raise ConfigError("config.eval.layer", name, "no layer of the encoder", cure)
        out = outputs.found[name].astype(jnp.float32)
        return out.mean(tuple(range(1, out.ndim - 1)))

    return features
