"""Muon: momentum, orthogonalized by Newton-Schulz (Jordan et al., 2024).

Source: kellerjordan.github.io/posts/muon, "Empirical considerations"; KellerJordan/Muon muon.py,
`zeropower_via_newtonschulz5` and `muon_update`. Only hidden matrices are Muon's. Embeddings,
prototypes, heads, biases and scales go to AdamW.

- Each of the fused queries, keys and values is a matrix of its own.
- A convolution kernel [H, W, in, out] is the matrix [H W in, out].
- Scanned layers [depth, ...] are `depth` matrices.

Newton-Schulz runs in float32, in the reference in bfloat16.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jssl.config import UserError, suggest

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class State(NamedTuple):
    """The momentum: one array for each matrix, in the shape of the parameter."""

    momentum: optax.Updates


def orthogonalize(matrix: Array) -> Array:
    """The nearest semi-orthogonal matrices, roughly: float32 [..., n, m] -> [..., n, m].

    Singular values end in about [.7, 1.2]. Five steps of the quintic iteration.
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
    """A kernel as the matrices [..., in, out] that it consists of."""
    if "/layers/" in path:
        return jax.vmap(lambda layer: as_matrices(path.replace("/layers/", "/0/"), layer))(x)
    if x.ndim == 4:
        return x.reshape(-1, x.shape[-1])
    if path.endswith("qkv/kernel"):
        return jnp.moveaxis(x.reshape(x.shape[0], 3, -1), 1, 0)
    return x


def from_matrices(path: str, matrices: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `as_matrices` for a kernel of `shape`."""
    if "/layers/" in path:
        inner = path.replace("/layers/", "/0/")
        return jax.vmap(lambda layer: from_matrices(inner, layer, shape[1:]))(matrices)
    if len(shape) == 2 and path.endswith("qkv/kernel"):
        matrices = jnp.moveaxis(matrices, 0, 1)
    return matrices.reshape(shape)


def direction(path: str, x: Array) -> Array:
    """The update of one kernel: orthogonal, times sqrt(max(1, out / in)).

    A convolution has the factor 1: the reference divides the kernel's height by its width there.
    """
    matrices = as_matrices(path, x)
    rows, columns = matrices.shape[-2:]
    scale = 1.0 if x.ndim == 4 else max(1.0, columns / rows) ** 0.5
    return from_matrices(path, scale * orthogonalize(matrices), x.shape)


def scale_by_muon(beta: float) -> optax.GradientTransformation:
    """Nesterov momentum, then `direction`; for trees whose leaves are all matrices."""

    def init(params):
        return State(jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params

        def mix(m, g):
            return beta * m + (1 - beta) * g

        momentum = jax.tree.map(mix, state.momentum, grads)
        ahead = jax.tree.map(mix, momentum, grads)
        updates = jax.tree_util.tree_map_with_path(lambda p, x: direction(_name(p), x), ahead)
        return updates, State(momentum)

    return optax.GradientTransformation(init, update)


def muon(
    rate: optax.Schedule,
    *,
    beta: float,
    weight_decay: float,
    keep,
    b1: float,
    b2: float,
    eps: float,
    hidden: tuple[str, ...],
) -> optax.GradientTransformation:
    """Muon for hidden matrices, AdamW for all else; one learning rate and decay for both.

    beta    of Muon's momentum; b1, b2, eps are Adam's
    keep    params -> tree of bool: which parameters decay
    hidden  regular expressions: a kernel whose path matches one of them is Muon's
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


def is_hidden(path, leaf: Array, hidden: tuple[str, ...]) -> bool:
    """Whether a parameter is a kernel whose path matches a pattern of `hidden`."""
    name = _name(path)
    is_kernel = name.endswith("kernel") and leaf.ndim >= 2
    return is_kernel and any(re.search(pattern, name) for pattern in hidden)


def matched(
    tx: optax.GradientTransformation, hidden: tuple[str, ...]
) -> optax.GradientTransformation:
    """`tx`, whose `init` raises `UserError` if no kernel of all parameters matches `hidden`: a part
    of them, the frozen ones or the others, may have none."""

    def init(params):
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        if not any(is_hidden(path, leaf, hidden) for path, leaf in flat):
            names = [_name(path) for path, leaf in flat if leaf.ndim >= 2]
            raise UserError(
                f"optim.muon_params={hidden} matches no kernel; {suggest(hidden[:1], names)}"
            )
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
