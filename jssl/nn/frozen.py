"""A frozen teacher: another encoder, whose weights are buffers that stay as they are.

`jssl.interop.teacher` reads its weights from ``config.teacher.path`` when a run begins, and fills
the sections `teacher_model` and `teacher_head`. A checkpoint and config.json of the run then hold
all of the teacher: a run that is resumed does not read the path again.
"""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jssl.config import Config, ConfigError, call_with_section, values
from jssl.config.values import Positive, Range
from jssl.core import Buffers
from jssl.nn import feature_maps, heads, prototypes, resnet, vit
from jssl.nn.apply import apply, init
from jssl.nn.prototypes import prototype_logits
from jssl.nn.vit_encoder import ViT
from jssl.ops import l2_normalize

SECTIONS: dict[str, Any] = {  # {section: its kinds}
    "teacher": {
        "path": Annotated[
            str, "weights of the teacher: a folder or file of timm, transformers, jssl"
        ],
        "part": Annotated[
            Literal["encoder", "teacher"],
            "which encoder of a workdir: the trained one, or its moving average",
        ],
        "size": Annotated[
            int, Range(0, 2**14), "side of the teacher's images, in pixels; 0: as the student's"
        ],
        "mean": Annotated[
            tuple[float, ...], "mean of the teacher's pixels; (): as its weights state"
        ],
        "std": Annotated[
            tuple[Positive, ...], "deviation of the teacher's pixels; (): as its weights state"
        ],
    },
    "teacher_model": values.documented_kinds(resnet.build)
    | values.documented_kinds(vit.build)
    | {"name": Annotated[str, "network of the teacher, as model.name"]},
    "teacher_head": values.documented_kinds(heads.build),
}
BUFFER = "frozen"
# Keys of `teacher_model` that count only in training, and the values that turn them off.
TRAINING_KEYS = {"drop_path": 0.0, "remat": "none", "rope_rescale": 1.0}


class Pixels(NamedTuple):
    """Mean and deviation of each channel: of the student's views, and of the teacher's images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    own_mean: tuple[float, ...]
    own_std: tuple[float, ...]


class FrozenTeacher(NamedTuple):
    """The buffer "frozen", {"params": ..., "stats": ...} of "network", and with a head also of
    "head" and "prototypes".

    Attributes:
      encoder: a ViT or a ResNet.
      head: the head before the prototypes; None: there are none.
      out_dim: the number of prototypes.
      size: side of its images, in pixels.
      pixels: statistics of the views and of its images.
    """

    encoder: Any
    head: heads.MLP | None
    out_dim: int
    size: int
    pixels: Pixels

    def init(self, rng: Array, views: Array) -> Buffers:
        """The buffer with random weights, for views [B, H, W, C]."""
        rng_network, rng_head, rng_prototypes = jax.random.split(rng, 3)
        params = {}
        stats = {}
        params["network"], stats["network"] = init(self.encoder, rng_network, self.images(views))
        if self.head:
            rows = jnp.zeros((2, self.encoder.dim))
            params["head"], stats["head"] = init(self.head, rng_head, rows)
            width = self.head.features[-1]
            layer = prototypes.init_prototypes(rng_prototypes, self.out_dim, width)
            params["prototypes"] = layer | {"scale": jnp.ones(self.out_dim)}
        return {BUFFER: {"params": params, "stats": stats}}

    def __call__(self, buffers: Buffers, views: Array) -> dict[str, Array]:
        """Runs the teacher on views [B, H, W, C] of the student. No gradient flows through.

        Returns:
          float32 {"features": [B, D], "map": [B, h, w, D]}, and with a head "logits": [B, K].
        """
        params = buffers[BUFFER]["params"]
        stats = buffers[BUFFER]["stats"]
        features, feature_map, _ = feature_maps.run_encoder(
            self.encoder, params["network"], stats["network"], self.images(views), train=False
        )
        outputs = {"features": features, "map": feature_map}
        if self.head:
            z, _ = apply(self.head, params["head"], stats["head"], features, train=False)
            outputs["logits"] = prototype_logits(params["prototypes"], l2_normalize(z))
        return lax.stop_gradient(outputs)

    def images(self, views: Array) -> Array:
        """The views in the teacher's size, with the teacher's mean and deviation of pixels."""
        mean, std, own_mean, own_std = (jnp.asarray(x, jnp.float32) for x in self.pixels)
        pixels = views.astype(jnp.float32) * std + mean
        return feature_maps.resized((pixels - own_mean) / own_std, self.size, self.size)


def teacher_from_config(config: Config, has_head: bool) -> FrozenTeacher:
    """The teacher of ``config.teacher`` and ``config.teacher_model``.

    Args:
      config: the whole config.
      has_head: whether it has a head and prototypes, ``config.teacher_head``.

    Raises:
      UserError: nothing says which encoder it is, or a key of it has no effect.
    """
    section = dict(config.teacher)
    if not len(config.teacher_model.keys()):
        raise ConfigError(
            "config.teacher.path", section["path"], "names no weights", "set --config.teacher=PATH"
        )
    encoder = feature_maps.image_encoder(config.teacher_model, "teacher_model")
    for key, off in TRAINING_KEYS.items():
        if key in config.teacher_model and (value := config.teacher_model[key]) != off:
            problem = "means nothing to a frozen teacher"
            raise ConfigError(f"config.teacher_model.{key}", value, problem, f"set it to {off}")
    head = head_from_config(config) if has_head else None
    augment = config.augment
    pixels = Pixels(
        augment.mean,
        augment.std,
        section["mean"] or augment.mean,
        section["std"] or augment.std,
    )
    size = section["size"] or own_size(encoder, augment.size)
    return FrozenTeacher(encoder, head, config.out_dim, size, pixels)


def head_from_config(config: Config) -> heads.MLP:
    """The head of ``config.teacher_head``.

    Raises:
      UserError: there is none.
    """
    if not len(config.teacher_head.keys()) or not config.out_dim:
        raise ConfigError(
            "config.prototype_weight",
            config.prototype_weight,
            "needs a teacher with prototypes",
            "name a workdir of dino or ibot with --config.teacher, or set it to 0",
        )
    dtype = config.model.dtype
    return call_with_section(
        heads.build, config.teacher_head, "teacher_head", dtype=dtype, section="teacher_head"
    )


def own_size(encoder: Any, size: int) -> int:
    """The side of the teacher's images for views of `size` pixels.

    It is that of its fixed positions, or the nearest multiple of its patch.
    """
    if not isinstance(encoder, ViT):
        return size
    if encoder.positions == "sincos":
        return encoder.image_size
    return max(round(size / encoder.patch), 1) * encoder.patch
