"""The hinge losses of a GAN: Lim & Ye 2017 (arXiv 1705.02894) and Tran et al. 2017 (1702.08896)."""

import jax
import jax.numpy as jnp
from jax import Array

from jssl.ops import require_arrays


def hinge_discriminator(real: Array, fake: Array) -> Array:
    """mean max(0, 1 - real) + mean max(0, 1 + fake), float32 [].

    Args:
      real: float [N], the scores of real images.
      fake: float [M], the scores of generated images.
    """
    require_arrays(real=(real, "float [N]"), fake=(fake, "float [M]"))
    real = real.astype(jnp.float32)
    fake = fake.astype(jnp.float32)
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()


def hinge_generator(fake: Array) -> Array:
    """-mean fake, float32 []; fake: float [M], the scores of generated images."""
    require_arrays(fake=(fake, "float [M]"))
    return -fake.astype(jnp.float32).mean()
