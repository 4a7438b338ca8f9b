"""Pictures of what a GAN makes: a grid of samples, and interpolations between two of them."""

import jax.numpy as jnp
from jax import Array

from jssl.core import Panel
from jssl.nn.gan import Gan

COLUMNS = 8
Layout = tuple[Array, Array | None, tuple[str, ...]]  # latents, labels, a caption of each column


def grid(rng: Array, rows: int, gan: Gan, truncation: float) -> Layout:
    """`COLUMNS` latents for each row; with classes, each column has one class."""
    z, labels = gan.draw(rng, rows * COLUMNS, truncation)
    names = [f"sample {i + 1}" for i in range(COLUMNS)]
    if gan.num_classes:
        classes = [i % gan.num_classes for i in range(COLUMNS)]
        labels = jnp.tile(jnp.array(classes), rows)
        names = [f"class {label}" for label in classes]
    return z, labels, tuple(names)


def lines(rng: Array, rows: int, gan: Gan, truncation: float) -> Layout:
    """Points on a line between two latents for each row; with classes, each row has one class."""
    ends, labels = gan.draw(rng, 2 * rows, truncation)
    first, last = ends.reshape(2, rows, 1, -1)
    z = first + jnp.linspace(0, 1, COLUMNS)[:, None] * (last - first)
    labels = None if labels is None else jnp.repeat(labels[:rows], COLUMNS)
    names = [f"{i / (COLUMNS - 1):.0%}" for i in range(COLUMNS)]
    return z.reshape(-1, gan.latent), labels, tuple(names)


def panel(images: Array, captions: tuple[str, ...]) -> Panel:
    """The images of a layout, [rows * COLUMNS, H, W, C] in 0..1, in its columns."""
    return Panel(tuple(images[i::COLUMNS] for i in range(COLUMNS)), captions)
