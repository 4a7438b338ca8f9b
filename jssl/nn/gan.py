"""The networks of a GAN on plain pytrees: random images, scores, and the average that samples.

Parameters are {"encoder", "head", "generator"}: encoder and head are the discriminator. Buffers are
"stats", the statistics of BatchNorm and spectral norm of each network, and "ema", the moving
average of the generator, of its parameters and its statistics.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jssl.core import Buffers, Params, TrainState
from jssl.nn.apply import apply
from jssl.nn.apply import init as init_module
from jssl.ops import ema, interleave_rows, normal_latents, split_rows
from jssl.parallel.mesh import shard_batch

View = tuple[Array, Array | None]  # images [B, H, W, C], and their classes, int [B], or None
Outputs = dict[str, Array]  # "features" [B, D], and what the head gives of them


class Gan(NamedTuple):
    """A generator and a discriminator.

    Attributes:
      encoder: ``encoder(images, train) -> features [B, D]``.
      head: ``head(features, labels, train) -> {"score": [B], ...}``.
      generator: ``generator(z [B, latent], labels, train) -> images``.
      latent: width of the latents.
      num_classes: of class-conditional networks; 0: the networks get no labels.
      ema_decay: of the average of the generator.
      ema_start: step at which the average begins. Before it is a copy of the generator.
    """

    encoder: Any
    head: nn.Module
    generator: nn.Module
    latent: int
    num_classes: int
    ema_decay: float
    ema_start: int

    def init(self, rng: Array, images: Array) -> tuple[Params, Buffers]:
        """Draws parameters and buffers for images of this shape."""
        labels = jnp.zeros(len(images), jnp.int32) if self.num_classes else None
        inputs = {
            "encoder": (self.encoder, images),
            "head": (self.head, jnp.zeros((len(images), self.encoder.dim)), labels),
            "generator": (self.generator, jnp.zeros((len(images), self.latent)), labels),
        }
        params = {}
        stats = {}
        for key, (name, (net, *given)) in zip(
            jax.random.split(rng, len(inputs)), inputs.items(), strict=True
        ):
            params[name], stats[name] = init_module(net, key, *given)
        average = {"params": params["generator"], "stats": stats["generator"]}
        return params, {"stats": stats, "ema": jax.tree.map(jnp.copy, average)}

    def draw(self, rng: Array, count: int, truncation: float = 0.0) -> tuple[Array, Array | None]:
        """Latents, float32 [count, latent] (`normal_latents`), and random classes, int32 [count].

        The classes are None if the networks get no labels.
        """
        rng_latent, rng_label = jax.random.split(rng)
        # Else XLA may spread random rows over more devices than a batch has parts.
        z = shard_batch(normal_latents(rng_latent, (count, self.latent), truncation))
        if not self.num_classes:
            return z, None
        return z, shard_batch(jax.random.randint(rng_label, (count,), 0, self.num_classes))

    def generate(
        self, params: Params, buffers: Buffers, rng: Array, count: int
    ) -> tuple[View, Buffers]:
        """Images of random latents and classes, in training mode."""
        z, labels = self.draw(rng, count)
        images, buffers = self._run("generator", params, buffers, z, labels)
        return (images, labels), buffers

    def judge(
        self, params: Params, buffers: Buffers, views: Mapping[str, View], groups: int
    ) -> tuple[dict[str, Outputs], Buffers]:
        """Runs the discriminator once, in training mode, on all views: {name: outputs}.

        `groups` divides the number of images of each view. Views of one group stay together
        (`jssl.ops.interleave_rows`).
        """
        sizes = [len(images) for images, _ in views.values()]
        x = shard_batch(interleave_rows([images for images, _ in views.values()], groups))
        labels = None
        if self.num_classes:
            given = [labels for _, labels in views.values() if labels is not None]
            labels = interleave_rows(given, groups)
        features, buffers = self._run("encoder", params, buffers, x)
        out, buffers = self._run("head", params, buffers, features, labels)
        rows = {key: split_rows(x, sizes, groups) for key, x in out.items()}
        rows["features"] = split_rows(features, sizes, groups)
        outputs = {name: {key: x[i] for key, x in rows.items()} for i, name in enumerate(views)}
        return outputs, buffers

    def average(self, state: TrainState, rng: Array) -> TrainState:
        """``before_update``: old * decay + new * (1 - decay) for the buffers "ema"."""
        decay = jnp.where(state.step < self.ema_start, 0.0, self.ema_decay)
        new = {"params": state.params["generator"], "stats": state.buffers["stats"]["generator"]}
        return state.replace(buffers=state.buffers | {"ema": ema(state.buffers["ema"], new, decay)})

    def embed(self, params: Params, buffers: Buffers, images: Array) -> Array:
        """The features of the discriminator in evaluation mode, float32 [B, D]."""
        stats = buffers["stats"]["encoder"]
        return apply(self.encoder, params["encoder"], stats, images, train=False)[0]

    def sample(self, buffers: Buffers, z: Array, labels: Array | None) -> Array:
        """Images of the average generator in evaluation mode, for latents [B, latent]."""
        average = buffers["ema"]
        return apply(self.generator, average["params"], average["stats"], z, labels, train=False)[0]

    def _run(
        self, name: str, params: Params, buffers: Buffers, *inputs: Any
    ) -> tuple[Any, Buffers]:
        net: Any = getattr(self, name)
        stats = buffers["stats"]
        out, updated = apply(net, params[name], stats[name], *inputs, train=True)
        return out, buffers | {"stats": stats | {name: updated}}
