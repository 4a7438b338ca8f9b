"""Muon: momentum, orthogonalized by Newton-Schulz (Jordan et al., 2024).

Source: kellerjordan.github.io/posts/muon, "Empirical considerations"; KellerJordan/Muon muon.py,
`zeropower_via_newtonschulz5` and `muon_update`. Muon updates hidden matrices only. AdamW updates
embeddings, prototypes, heads, biases and scales.

- Each of the fused queries, keys and values is a matrix of its own.
- A convolution kernel [H, W, in, out] is the matrix [H W in, out].
- Scanned layers [depth, ...] are `depth` matrices.

Newton-Schulz runs in float32; in the reference it runs in bfloat16.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.config import ConfigError, suggest

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class State(NamedTuple):
    """The momentum: one array for each matrix, in the shape of the parameter."""

    momentum: optax.Updates


def orthogonalize(matrix: Array) -> Array:
    """Approximates the nearest semi-orthogonal matrices: float32 [..., n, m] -> [..., n, m].

    It takes `STEPS` steps of the quintic iteration. The singular values of the result are in about
    [.7, 1.2].
    """
    wide = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if wide else matrix
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide else x


def as_matrices(path: str, x: Array) -> Array:
    """Reshapes the kernel x at `path` to the matrices [..., in, out] of which it consists."""
    if "/layers/" in path:
        return jax.vmap(lambda layer: as_matrices(path.replace("/layers/", "/0/"), layer))(x)
    if x.ndim == 4:
        return x.reshape(-1, x.shape[-1])
    if path.endswith("qkv/kernel"):
        return jnp.moveaxis(x.reshape(x.shape[0], 3, -1), 1, 0)
    return x


def from_matrices(path: str, matrices: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `as_matrices` for the kernel at `path`, which has this shape."""
    if "/layers/" in path:
        inner = path.replace("/layers/", "/0/")
        return jax.vmap(lambda layer: from_matrices(inner, layer, shape[1:]))(matrices)
    if len(shape) == 2 and path.endswith("qkv/kernel"):
        matrices = jnp.moveaxis(matrices, 0, 1)
    return matrices.reshape(shape)


def direction(path: str, x: Array) -> Array:
    """The update of the kernel at `path`: x orthogonalized, times sqrt(max(1, out / in)).

    The factor of a convolution is 1, because the reference divides the height of the kernel by its
    width there.
    """
    matrices = as_matrices(path, x)
    rows, columns = matrices.shape[-2:]
    scale = 1.0 if x.ndim == 4 else max(1.0, columns / rows) ** 0.5
    return from_matrices(path, scale * orthogonalize(matrices), x.shape)


def scale_by_muon(beta: float) -> optax.GradientTransformation:
    """Nesterov momentum with decay `beta`, then `direction`; every leaf must be a kernel."""

    def init(params):
        return State(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params

        def mix(m, g):
            return beta * m + (1 - beta) * g

        def orthogonal(path, leaf):
            return direction(path_name(path), leaf)

        momentum = jax.tree.map(mix, state.momentum, updates)
        ahead = jax.tree.map(mix, momentum, updates)
        return jax.tree_util.tree_map_with_path(orthogonal, ahead), State(momentum)

    return optax.GradientTransformation(init, update)


def muon(
    rate: optax.Schedule,
    *,
    beta: float,
    weight_decay: float,
    keep: Callable[[optax.Params], Any],
    b1: float,
    b2: float,
    eps: float,
    hidden: tuple[str, ...],
) -> optax.GradientTransformation:
    """Muon for hidden matrices, AdamW for all other parameters.

    Args:
      rate: the learning rate of both.
      beta: the decay of Muon's momentum.
      weight_decay: of both.
      keep: params -> tree of bool, True for parameters that decay.
      b1, b2, eps: of AdamW.
      hidden: regular expressions; Muon updates the kernels whose paths match one of them.
    """

    def label(path, leaf):
        return "muon" if is_hidden(path, leaf, hidden) else "adam"

    def labels(params):
        return jax.tree_util.tree_map_with_path(label, params)

    matrices = optax.chain(
        scale_by_muon(beta),
        optax.add_decayed_weights(weight_decay, keep),
        optax.scale_by_learning_rate(rate),
    )
    others = optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=keep)
    return optax.partition({"muon": matrices, "adam": others}, labels)


def is_hidden(path: tuple[Any, ...], leaf: Array, hidden: tuple[str, ...]) -> bool:
    """Whether a parameter is a kernel whose path matches a pattern of `hidden`."""
    name = path_name(path)
    is_kernel = name.endswith("kernel") and leaf.ndim >= 2
    return is_kernel and any(re.search(pattern, name) for pattern in hidden)


def matched(
    tx: optax.GradientTransformation, hidden: tuple[str, ...]
) -> optax.GradientTransformation:
    """`tx` with a check: `init` raises `UserError` if no kernel matches `hidden`.

    It must see all parameters. A subset of them, such as the frozen ones, may have no such kernel.
    """

    def init(params):
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        if not any(is_hidden(path, leaf, hidden) for path, leaf in flat):
            names = [path_name(path) for path, leaf in flat if leaf.ndim >= 2]
            raise ConfigError(
                "config.optim.muon_params", hidden, "matches no kernel", suggest(hidden[:1], names)
            )
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a parameter as a text, as in "encoder/layer1_0/bn1/scale"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
