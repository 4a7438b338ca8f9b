"""Finite scalar quantization (Mentzer, Minnen, Agustsson, Tschannen; ICLR 2024; arXiv 2309.15505).

Each number of a code is bounded and rounded to one of a few levels. The codebook is the grid of
all combinations; it is not learned, and no part of it can fall out of use.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

EPS = 1e-3  # appendix A.1: keeps the ends inside the outer levels


class FSQ(NamedTuple):
    """``config.levels``: how many values each number of a code has."""

    levels: tuple[int, ...]

    @property
    def num_codes(self) -> int:
        """The size of the grid."""
        return math.prod(self.levels)

    def init(self, rng: Array) -> dict[str, Any]:
        """There is no state."""
        return {}

    def __call__(
        self, state: dict[str, Any], z: Array, rng: Array
    ) -> tuple[Array, Array, Array, dict[str, Any]]:
        """Quantizes z float32 [..., D]: (codes [..., D], ids int32 [...], loss 0, state).

        The gradient of a code passes through the rounding, and reaches z through the bound.
        """
        bounded = self.bound(z)
        rounded = bounded + lax.stop_gradient(jnp.round(bounded) - bounded)
        half = jnp.array(self.levels) // 2
        return rounded / half, self._index(jnp.round(bounded)), jnp.zeros(()), state

    def ids(self, state: dict[str, Any], z: Array) -> Array:
        """The ids int32 [...] of the codes of z [..., D]."""
        return self._index(jnp.round(self.bound(z)))

    def lookup(self, state: dict[str, Any], ids: Array) -> Array:
        """The codes float32 [..., D] of ids int32 [...]."""
        levels = jnp.array(self.levels)
        digits = ids[..., None] // self._places() % levels
        return (digits - levels // 2) / (levels // 2)

    def reseed(self, state: dict[str, Any]) -> dict[str, Any]:
        """Nothing can fall out of use."""
        return state

    def bound(self, z: Array) -> Array:
        """tanh, scaled and shifted so that rounding has `levels` results (appendix A.1)."""
        levels = jnp.array(self.levels)
        half = (levels - 1) * (1 - EPS) / 2
        offset = jnp.where(levels % 2 == 1, 0.0, 0.5)
        return jnp.tanh(z + jnp.tan(offset / half)) * half - offset

    def _places(self) -> Array:
        return jnp.array(np.cumprod((1, *self.levels[:-1])), jnp.int32)

    def _index(self, rounded: Array) -> Array:
        digits = rounded + jnp.array(self.levels) // 2
        return (digits.astype(jnp.int32) * self._places()).sum(-1)
