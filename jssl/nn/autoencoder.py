"""An autoencoder: the encoder of ``config.model``, a bottleneck, and a decoder to an image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jssl.config import Config, ConfigError, call_with_section
from jssl.core import Batch
from jssl.nn import decoder, feature_maps, masked_image
from jssl.nn.apply import apply, init

Tree = dict[str, Any]


class Autoencoder(NamedTuple):
    """Three modules; parameters and statistics are {"encoder": ..., "bottleneck": ..., ...}.

    Attributes:
      encoder: a ResNet or a ViT of jssl.
      bottleneck: from its feature map to the code.
      decoder: from a code to an image. The code that it gets has `dim` numbers.
      dim: numbers in a code.
    """

    encoder: Any
    bottleneck: decoder.Bottleneck
    decoder: decoder.Decoder
    dim: int

    def init(self, rng: Array, images: Array) -> tuple[Tree, Tree]:
        """Draws (params, stats) for images of the shape of `images` [B, H, W, C]."""
        rng_encoder, rng_bottleneck, rng_decoder = jax.random.split(rng, 3)
        params = {}
        stats = {}
        params["encoder"], stats["encoder"] = init(self.encoder, rng_encoder, images)
        maps = self._zeros(lambda: self._map(params, stats, images, train=False)[1])
        params["bottleneck"], _ = init(self.bottleneck, rng_bottleneck, maps)
        code = self._zeros(lambda: self.encode(params, stats, images, train=False)[0])
        params["decoder"], stats["decoder"] = init(self.decoder, rng_decoder, code[..., : self.dim])
        return params, stats

    def encode(
        self, params: Tree, stats: Tree, images: Array, train: bool, rng: Array | None = None
    ) -> tuple[Array, Array, Tree]:
        """(code, features float32 [B, D] of the encoder, stats) of images [B, H, W, C].

        `rng` is for stochastic depth, if the encoder has it.
        """
        features, maps, stats = self._map(params, stats, images, train, rng)
        code, _ = apply(self.bottleneck, params["bottleneck"], {}, maps, train=train)
        return code, features, stats

    def decode(self, params: Tree, stats: Tree, code: Array, train: bool) -> tuple[Array, Tree]:
        """(images float32 [B, H, W, channels], stats) of a code."""
        images, new = apply(self.decoder, params["decoder"], stats["decoder"], code, train=train)
        return images, stats | {"decoder": new}

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of the code that the decoder gets, of one image."""
        side = self.decoder.side
        return (side, side, self.dim) if self.bottleneck.kind == "map" else (self.dim,)

    def embed(self, params: Tree, stats: Tree, images: Array) -> Array:
        """The features of the encoder in evaluation mode, float32 [B, D]."""
        return self._map(params, stats, images, train=False)[0]

    def _map(self, params, stats, images, train, rng=None):
        features, maps, new = feature_maps.run_encoder(
            self.encoder,
            params["encoder"],
            stats["encoder"],
            images,
            train,
            None if rng is None else {"drop_path": rng},
        )
        return features, maps, stats | {"encoder": new}

    def _zeros(self, function: Callable[[], Array]) -> Array:
        shape = jax.eval_shape(function)
        return jnp.zeros(shape.shape, shape.dtype)


def autoencoder_from_config(config: Config, code_parts: int = 1, outputs: int = 1) -> Autoencoder:
    """The autoencoder of the sections ``config.model`` and ``config.decoder``.

    Args:
      config: the whole config.
      code_parts: how many times `dim` outputs the bottleneck has: 2 for means and variances.
      outputs: numbers of the decoder for each channel of a pixel.

    Raises:
      UserError: no number of doublings leads from the feature map to the image; or as
        `feature_maps.image_encoder` does.
    """
    encoder = feature_maps.image_encoder(config.model, "model")
    size = config.augment.size
    reduction = feature_maps.reduction(encoder)
    doublings = reduction.bit_length() - 1
    if reduction != 2**doublings or size % reduction:
        raise ConfigError(
            "config.augment.size",
            size,
            f"the decoder doubles the encoder's map, which divides it by {reduction}",
            f"try a multiple of {reduction}, for an encoder that divides by a power of 2",
        )
    bottleneck, decode = call_with_section(
        decoder.build,
        config.decoder,
        "decoder",
        side=size // reduction,
        doublings=doublings,
        channels=outputs * config.data.channels,
        code_parts=code_parts,
        dtype=config.model.dtype,
    )
    return Autoencoder(encoder, bottleneck, decode, config.decoder.dim)


def picture_view(config: Config) -> Callable[[Batch], Array]:
    """f(batch) -> float32 [B, H, W, C]: the center of each image, in the size of training."""
    return masked_image.eval_view(config.changed({"eval.size": 0}))
