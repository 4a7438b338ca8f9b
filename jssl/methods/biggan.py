"""BigGAN: "Large Scale GAN Training for High Fidelity Natural Image Synthesis"
(Brock, Donahue, Simonyan; ICLR 2019; arXiv 1809.11096), and SS-GAN, "Self-Supervised GANs via
Auxiliary Rotation Loss" (Chen, Zhai, Ritter, Lucic, Houlsby; CVPR 2019; arXiv 1811.11212).

A generator makes images from random vectors. A discriminator gives each image a score: its hinge
loss asks for scores above 1 of real images and below -1 of generated ones. Both learn in turn. With
`config.rotate_every`, the discriminator also predicts by how many quarter turns an image was
rotated. It learns this from real images, and the generator from its own (SS-GAN, equations 2, 3).
The discriminator without its head is what is evaluated.

Only `config.labels` lets labels reach the step: the generator gets a class, and the score of an
image depends on its class. No other method reads labels.

Reference code: ajbrock/BigGAN-PyTorch (train_fns.py), google/compare_gan (ssgan.py). Differences:
the average of the generator is updated before the steps (`jssl.nn.ema` tells why that is the same);
the orthogonal penalty has the paper's weight, of which BigGAN-PyTorch applies half; every n-th
image is rotated, not the last ones of a batch; the step of the discriminator does not look at
rotated images of the generator. `jssl.nn.biggan` lists the differences of the networks.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jssl.config import Config, call_with_section, values
from jssl.config.values import Count, Every, NonNegative, Rate, Whole
from jssl.core import DatasetInfo, TwoPlayers
from jssl.losses import hinge_discriminator, hinge_generator
from jssl.metrics import monitor_from_config
from jssl.nn import biggan, gan_samples
from jssl.nn.spectral_norm import orthogonal_penalty
from jssl.transforms import augment
from jssl.transforms.pictures import to_pixels
from jssl.transforms.quarter_turns import quarter_turns, rotation_loss
from jssl.transforms.views import eval_view

KEYS = {
    "labels": Annotated[bool, "class-conditional; only with it labels reach the step"],
    "num_classes": Annotated[Count, "number of classes, with labels"],
    "discriminator_steps": Annotated[Count, "discriminator steps per update, each on its part"],
    "rotate_every": Annotated[Whole, "every n-th image is also rotated (SS-GAN); 0: none"],
    "rotation_weight": Annotated[NonNegative, "weight of the discriminator's rotation loss"],
    "rotation_weight_generator": Annotated[NonNegative, "weight of the generator's rotation loss"],
    "orthogonal_weight": Annotated[NonNegative, "weight of the generator's orthogonal penalty"],
    "ema_decay": Annotated[Rate, "EMA decay of the generator that samples"],
    "ema_start": Annotated[Every, "step at which the EMA begins; before, it is a copy"],
    "truncation": Annotated[NonNegative, "bound of the latents of pictures; 0: none"],
}
SECTIONS = {"generator": values.documented_kinds(biggan.generator)}


def build(config: Config, data_info: DatasetInfo) -> TwoPlayers:
    """See the module; `config` is the whole config."""
    gan = biggan.from_config(config, data_info)
    train_view = call_with_section(
        augment.view, config.augment, "augment", dtype=config.model.dtype
    )
    view = eval_view(config)
    monitor = monitor_from_config(config)
    every = config.rotate_every

    def init(rng, batch):
        return gan.init(rng, view(batch))

    def judge(params, buffers, views):
        """The outputs of the discriminator for all views, and for the turned ones of the first."""
        images, labels = next(iter(views.values()))
        if every:
            few = None if labels is None else jnp.repeat(labels[::every], 3)
            views = views | {"turned": (quarter_turns(images[::every]), few)}
        return gan.judge(params, buffers, views, groups=len(images) // max(every, 1))

    def turns(upright, turned):
        return rotation_loss(upright["rotation"][::every], turned["rotation"])

    def discriminator_loss(own, state, batch, rng):
        params = state.params | own
        rng_view, rng_fake = jax.random.split(rng)
        images = train_view(rng_view, batch["image"], batch["size"])
        real = (images, batch["label"] if config.labels else None)
        fake, buffers = gan.generate(params, state.buffers, rng_fake, len(images))
        out, buffers = judge(params, buffers, {"real": real, "fake": fake})
        scores = {name: out[name]["score"] for name in ("real", "fake")}
        value = hinge_discriminator(**scores)
        metrics = {f"score_{name}": score.mean() for name, score in scores.items()}
        if every:
            loss, metrics["rotation_top1"] = turns(out["real"], out["turned"])
            value += config.rotation_weight * loss
        return value, (buffers, metrics | monitor(state.step, out["real"]["features"]))

    def generator_loss(own, state, batch, rng):
        params = state.params | own
        fake, buffers = gan.generate(params, state.buffers, rng, len(batch["image"]))
        out, buffers = judge(params, buffers, {"fake": fake})
        value = hinge_generator(out["fake"]["score"])
        if every:
            value += config.rotation_weight_generator * turns(out["fake"], out["turned"])[0]
        if config.orthogonal_weight:
            penalty = orthogonal_penalty(own["generator"], skip=("classes",))
            value += config.orthogonal_weight * penalty
        return value, (buffers, {})

    def embed(params, buffers, batch):
        return gan.embed(params, buffers, view(batch))

    def pixels(buffers, z, labels):
        return to_pixels(config, gan.sample(buffers, z, labels))

    def sample(params, buffers, rng, count, truncation=0.0):
        return pixels(buffers, *gan.draw(rng, count, truncation))

    def render(params, buffers, batch, rng):
        panels = {}
        for name, layout in (("samples", gan_samples.grid), ("interpolations", gan_samples.lines)):
            z, labels, captions = layout(rng, len(batch["image"]), gan, config.truncation)
            panels[name] = gan_samples.panel(pixels(buffers, z, labels), captions)
        return panels

    return TwoPlayers(
        init,
        discriminator_loss,
        generator_loss,
        embed,
        discriminator_steps=config.discriminator_steps,
        before_update=gan.average,
        render=render,
        sample=sample,
    )
