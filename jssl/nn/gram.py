"""The Gram teacher of DINOv3: an encoder that is replaced by the EMA teacher from time to time.

Simeoni et al. 2025, arXiv 2508.10104, section 4; facebookresearch/dinov3 train/ssl_meta_arch.py
(`update_gram`) and configs/train/dinov3_vit7b16_gram_anchor.yaml. It sees the global crops of the
student without color changes, in `scale` times the resolution; its patches are then resized.

Paper and code differ; the code is followed where they do: the loss is a mean over the entries of
the Gram matrix, and all patches count, masked ones too. The weight is constant from `start` on,
where the code raises it from 0 to 2 along a cosine.
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config
from jssl.config.values import Count, Every, NonNegative
from jssl.core import Buffers, Params, TrainState
from jssl.losses import gram_loss
from jssl.nn import masked_image
from jssl.nn.apply import apply
from jssl.nn.positions import bicubic
from jssl.nn.vit_encoder import ViT

KEYS = {
    "gram_weight": Annotated[NonNegative, "weight of Gram anchoring (DINOv3); 0: off"],
    "gram_start": Annotated[Every, "first step with Gram anchoring"],
    "gram_every": Annotated[
        Every, "steps between two copies of the teacher to the Gram teacher; 0: never"
    ],
    "gram_scale": Annotated[
        Count, "resolution of the Gram teacher's crops / that of the student's"
    ],
}


class GramTeacher(NamedTuple):
    """The buffer "gram", {"encoder": parameters}.

    Attributes:
      encoder: the ViT, without stochastic depth.
      weight: of the loss, from `start` on.
      start: the first step with the loss.
      every: steps between two copies of the EMA teacher; 0: never.
    """

    encoder: ViT
    weight: float
    start: int
    every: int

    def init(self, params: Params) -> Buffers:
        """The buffer at step 0: a copy of the encoder."""
        return {"gram": {"encoder": jax.tree.map(jnp.copy, params["encoder"])}}

    def update(self, state: TrainState) -> TrainState:
        """Copies the EMA teacher at `start` and after every `every` steps."""
        if not self.every:
            return state
        since = state.step - self.start
        is_due = (since >= 0) & (since % self.every == 0)
        old = state.buffers["gram"]["encoder"]
        teacher = state.buffers["teacher"]["encoder"]
        new = jax.tree.map(lambda now, then: jnp.where(is_due, now, then), teacher, old)
        return state.replace(buffers=state.buffers | {"gram": {"encoder": new}})

    def patches(self, buffers: Buffers, images: Array, side: int) -> Array:
        """Patch features of larger images, resized to a grid: float32 [V, side * side, D].

        images: [V, H, W, C]. Bicubic without antialiasing, as the reference.
        """
        tokens, _ = apply(self.encoder, buffers["gram"]["encoder"], {}, images, train=False)
        patches = masked_image.patch_tokens(self.encoder, tokens).astype(jnp.float32)
        old = round(patches.shape[1] ** 0.5)
        weight = jnp.asarray(bicubic(old, side, side / old))
        grid = patches.reshape(len(patches), old, old, -1)
        small = jnp.einsum("ig,jh,vghd->vijd", weight, weight, grid)
        return lax.stop_gradient(small.reshape(len(patches), side * side, -1))

    def loss(self, patches: Array, target: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        """(weighted loss, metrics) of the student's patches [V, N, D]; 0 before `start`."""
        value = gram_loss(patches, target)
        weight = jnp.where(step >= self.start, self.weight, 0.0)
        return weight * value, {"gram_loss": value}


def from_config(config: Config, encoder: Any) -> GramTeacher | None:
    """The Gram teacher of ``config.gram_*``; None if its weight is 0."""
    if not config.gram_weight:
        return None
    still = encoder.clone(drop_path=0.0)
    return GramTeacher(still, config.gram_weight, config.gram_start, config.gram_every)
