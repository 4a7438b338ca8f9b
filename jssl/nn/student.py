"""A student of distillation: an encoder with projections to the features of a teacher."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config
from jssl.nn import feature_maps, frozen, heads, masked_image
from jssl.nn.apply import apply, init
from jssl.nn.frozen import FrozenTeacher
from jssl.nn.prototypes import init_prototypes, prototype_logits
from jssl.ops import l2_normalize


class Student(NamedTuple):
    """{"encoder"}, and where a loss needs them "head" and "prototype_head", "dense_head", and
    "prototypes".

    Attributes:
      encoder: a ViT or a ResNet.
      heads: {"head", "prototype_head"}, modules of the pooled features.
      dense_dim: width of the projected feature map; 0: there is none.
      out_dim: the number of prototypes, with "prototype_head".
    """

    encoder: Any
    heads: dict[str, heads.MLP]
    dense_dim: int
    out_dim: int

    def init(self, rng: Array, views: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draws (params, stats) for views [B, H, W, C]."""
        rngs = jax.random.split(rng, 5)
        params = {}
        stats = {}
        width = self.encoder.dim
        params["encoder"], stats["encoder"] = init(self.encoder, rngs[0], views)
        for key, (name, module) in zip(rngs[1:3], self.heads.items(), strict=False):
            params[name], stats[name] = init(module, key, jnp.zeros((2, width)))
        if self.dense_dim:
            params["dense_head"] = masked_image.init_torch_dense(rngs[3], width, self.dense_dim)
        if "prototype_head" in self.heads:
            z_width = self.heads["prototype_head"].features[-1]
            params["prototypes"] = init_prototypes(rngs[4], self.out_dim, z_width)
        return params, stats

    def __call__(
        self, params: dict[str, Any], stats: dict[str, Any], views: Array, rng: Array
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Runs the student on views [B, H, W, C] in training mode; `rng` is for stochastic depth.

        Returns:
          ({"features": [B, D], and the outputs of its heads, "head", "prototype_head" and
          "map" [B, h, w, dense_dim]}, stats); all float32.
        """
        stats = dict(stats)
        features, feature_map, stats["encoder"] = feature_maps.run_encoder(
            self.encoder,
            params["encoder"],
            stats["encoder"],
            views,
            train=True,
            rngs={"drop_path": rng},
        )
        outputs = {"features": features}
        for name, module in self.heads.items():
            outputs[name], stats[name] = apply(
                module, params[name], stats[name], features, train=True
            )
        if self.dense_dim:
            outputs["map"] = masked_image.dense(params["dense_head"], feature_map)
        return outputs, stats

    def logits(self, params: dict[str, Any], z: Array) -> Array:
        """The logits [B, K] of the outputs of "prototype_head"."""
        return prototype_logits(params["prototypes"], l2_normalize(z))


def student_from_config(config: Config, teacher: FrozenTeacher, losses: list[str]) -> Student:
    """The student of ``config.model``, with what the losses need.

    Args:
      config: the whole config. ``config.hidden`` has the hidden layers of "head".
      teacher: its features have the width of the projections.
      losses: of "global", "dense", "relation" and "prototype".

    Raises:
      UserError: the encoder is no ViT and no ResNet.
    """
    modules = {}
    width = teacher.encoder.dim
    if "global" in losses:
        dtype = jnp.dtype(config.model.dtype)
        features = (*config.hidden, width)
        modules["head"] = heads.MLP(features, True, False, False, True, "relu", "torch", dtype)
    if "prototype" in losses:
        modules["prototype_head"] = frozen.head_from_config(config)
    encoder = feature_maps.image_encoder(config.model, "model")
    return Student(encoder, modules, width if "dense" in losses else 0, config.out_dim)
