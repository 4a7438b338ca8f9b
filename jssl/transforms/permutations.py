"""The permutations of a jigsaw puzzle, chosen to differ in many places."""

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from jssl.config import Config, ConfigError


def from_config(config: Config) -> Array:
    """``config.num_permutations`` permutations of the tiles of a grid: int32 [P, grid * grid].

    Raises:
      UserError: there are not so many.
    """
    tiles = config.grid**2
    total = math.factorial(tiles)
    if config.num_permutations > total:
        raise ConfigError(
            "config.num_permutations",
            config.num_permutations,
            f"{tiles} tiles have {total} permutations",
            f"set it to {total} or less",
        )
    return jnp.asarray(distant_permutations(tiles, config.num_permutations))


@functools.lru_cache
def distant_permutations(tiles: int, count: int) -> np.ndarray:
    """`count` of the permutations of `tiles` tiles, int32 [count, tiles].

    The first is random (of a fixed seed). Each next one is the permutation whose smallest Hamming
    distance to those before is largest. Among equals, it is the one with the largest mean distance.
    Source: Noroozi and Favaro 2016; facebookresearch/vissl
    extra_scripts/generate_jigsaw_permutations.py, which takes either of the two distances.

    All tiles! permutations are compared, so `tiles` is at most 9. The result is always the same.
    """
    total = math.factorial(tiles)
    assert tiles <= 9 and 1 <= count <= total
    every = np.fromiter(itertools.permutations(range(tiles)), np.dtype((np.int8, tiles)), total)
    places = np.ascontiguousarray(every.T)
    smallest = np.full(total, tiles, np.int8)
    sums = np.zeros(total, np.int32)
    chosen = [int(np.random.default_rng(0).integers(total))]
    for _ in range(count - 1):
        distance = np.zeros(total, np.int8)
        for place, tile in zip(places, every[chosen[-1]], strict=True):
            distance += place != tile
        np.minimum(smallest, distance, out=smallest)
        sums += distance
        farthest = np.flatnonzero(smallest == smallest.max())
        chosen.append(int(farthest[sums[farthest].argmax()]))
    result = every[chosen].astype(np.int32)
    result.flags.writeable = False
    return result
