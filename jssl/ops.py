"""Small pure functions that more than one method needs, and the check of their arguments."""

import re
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jssl.parallel.mesh import replicate

COLUMNS = 1024  # centroids that are compared with all rows at a time
DTYPES = {"float": jnp.floating, "int": jnp.integer, "bool": jnp.bool_}


def l2_normalize(x: Array, eps: float = 1e-12) -> Array:
    """x / max(|x|, eps) along the last axis, as torch.nn.functional.normalize has it.

    Args:
      x: float [..., D].
      eps: a row with a norm below it is divided by `eps`; a row of zeros stays zero.

    Returns:
      float32 [..., D]. Rows are divided by their largest element first, so that no square
      underflows or overflows: rows of any norm from `eps` to 3e38 are unit vectors, and their
      gradient has no component along the row. A row with an infinite element is NaN there.
    """
    x = x.astype(jnp.float32)
    largest = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    y = x / jnp.where(largest > 0, largest, 1)  # the result does not depend on the divisor
    square = jnp.square(y).sum(-1, keepdims=True)
    norm = largest * jnp.sqrt(lax.stop_gradient(square))
    return jnp.where(norm < eps, x / eps, y * lax.rsqrt(jnp.where(norm < eps, 1, square)))


def standardize(x: Array, eps: float = 1e-5) -> Array:
    """(x - mean) / deviation of each column of x [B, D], float32 [B, D].

    It is BatchNorm without affine parameters; `eps` is added to the variance.
    """
    x = x.astype(jnp.float32)
    # The gradient of rsqrt underflows from 1e13 on.
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + eps)


def layer_norm_rows(x: Array, eps: float = 1e-5) -> Array:
    """(x - mean) / deviation along the last axis of x [..., D], float32 [..., D].

    It is LayerNorm without affine parameters; `eps` is added to the variance.
    """
    x = x.astype(jnp.float32)
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def patchify(images: Array, patch: int) -> Array:
    """Images [B, H, W, C] -> rows of patches [B, H/p * W/p, p * p * C], for p = `patch`.

    The pixels of a patch are in the order (row, column, channel), as in MAE's models_mae.py.
    """
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Array, patch: int, channels: int) -> Array:
    """The inverse of `patchify` for square images: [B, N, p * p * C] -> [B, H, W, C]."""
    b, n, _ = patches.shape
    side = round(n**0.5)
    x = patches.reshape(b, side, side, patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * patch, side * patch, channels)


def normalize_patches(patches: Array) -> tuple[Array, Array, Array]:
    """Each patch of [..., P] by its own mean and variance: (normalized, mean, deviation).

    MAE, section 4.2; models_mae.py `norm_pix_loss`, whose torch.var divides by n - 1.
    """
    mean = patches.mean(-1, keepdims=True)
    variance = patches.var(-1, ddof=1, keepdims=True)
    deviation = jnp.sqrt(variance + 1e-6)
    return (patches - mean) / deviation, mean, deviation


def ema(old: Any, new: Any, decay: Array | float) -> Any:
    """decay * old + (1 - decay) * new for each leaf of two trees; no gradient flows to `new`."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * lax.stop_gradient(b), old, new)


def cosine_schedule(step: Array | int, steps: int, first: float, last: float) -> Array:
    """`first` at step 0, `last` at `steps`, half a cosine between (BYOL, section 3.2)."""
    return last - (last - first) * (jnp.cos(jnp.pi * step / steps) + 1) / 2


def linear_schedule(step: Array | int, steps: int, first: float, last: float) -> Array:
    """A straight line from `first` at step 0 to `last` at `steps`; `last` after that."""
    return first + (last - first) * jnp.minimum(step / max(steps, 1), 1)


def normal_latents(rng: Array, shape: tuple[int, ...], truncation: float = 0.0) -> Array:
    """Standard normal numbers, float32, for a generative model.

    With `truncation`, those of a larger absolute value are drawn again (BigGAN, arXiv 1809.11096,
    section 3.1); 0: none are.
    """
    if truncation:
        return jax.random.truncated_normal(rng, -truncation, truncation, shape)
    return jax.random.normal(rng, shape)


def enqueue(queue: Array, z: Array) -> Array:
    """The queue [N, D] with the rows of z [B, D] in front and without its last B rows, the oldest.

    No gradient flows to z.
    """
    return jnp.concatenate([lax.stop_gradient(z).astype(queue.dtype), queue])[: len(queue)]


def interleave_rows(parts: Sequence[Array], groups: int) -> Array:
    """Joins batches [groups * n, ...], each with its own n, group by group: [N, ...].

    All rows of a group, such as images and what is made of them, stay on one device.
    """
    grouped = [x.reshape(groups, -1, *x.shape[1:]) for x in parts]
    return jnp.concatenate(grouped, axis=1).reshape(-1, *parts[0].shape[1:])


def split_rows(x: Array, sizes: Sequence[int], groups: int) -> list[Array]:
    """The inverse of `interleave_rows`: batches of these sizes from x [N, ...]."""
    ends = np.cumsum([size // groups for size in sizes])[:-1]
    parts = jnp.split(x.reshape(groups, -1, *x.shape[1:]), ends, axis=1)
    return [part.reshape(-1, *x.shape[1:]) for part in parts]


def sinkhorn(
    scores: Array, epsilon: float | Array, iterations: int, weight: Array | None = None
) -> Array:
    """Soft assignments of B rows to K prototypes, under which all prototypes get equal shares.

    Source: SwAV (Caron et al. 2020), section 3.1 and appendix A.1. No gradient flows through.

    Args:
      scores: float [B, K].
      epsilon: the temperature of the scores.
      iterations: of Sinkhorn-Knopp, each of which normalizes columns, then rows.
      weight: float [B] or None. Rows of weight 0 do not count in the balance, unless all rows have
        weight 0.

    Returns:
      float32 [B, K]; rows sum to 1.
    """
    require_arrays(scores=(scores, "float [B, K]"), weight=(weight, "[B]"))
    log_q = lax.stop_gradient(scores).astype(jnp.float32) / epsilon
    if weight is not None:
        weight = jnp.where(weight.any(), weight, 1.0)[:, None]
    for _ in range(iterations):  # in logarithms: exp of unbounded scores would overflow
        log_q = log_q - jax.nn.logsumexp(log_q, axis=0, keepdims=True, b=weight)
        log_q = log_q - jax.nn.logsumexp(log_q, axis=1, keepdims=True)
    return jnp.exp(log_q)


def nearest_index(x: Array, centroids: Array, spherical: bool) -> Array:
    """The index of the centroid that is nearest to each row, int32 [N].

    No [N, K] matrix is in memory, only [N, COLUMNS].

    Args:
      x: float [N, D].
      centroids: float [K, D].
      spherical: nearest by the inner product; False: by the Euclidean distance.
    """
    k = len(centroids)
    width = min(COLUMNS, len(centroids))
    centroids = replicate(centroids)
    blocks = -(-k // width)
    half = 0.0 if spherical else jnp.square(centroids).sum(1) / 2
    offset = jnp.full(blocks * width, -jnp.inf).at[:k].set(-half)
    padded = jnp.pad(centroids, ((0, blocks * width - k), (0, 0)))

    def compare_block(carry, block):
        best_score, best_index = carry
        centroids, offset, first_index = block
        score = jnp.matmul(x, centroids.T, precision=lax.Precision.HIGHEST) + offset
        block_score = score.max(1)
        return (
            jnp.maximum(best_score, block_score),
            jnp.where(
                block_score > best_score,
                first_index + score.argmax(1).astype(jnp.int32),
                best_index,
            ),
        ), None

    start = (jnp.full(len(x), -jnp.inf), jnp.zeros(len(x), jnp.int32))
    first_indices = jnp.arange(blocks, dtype=jnp.int32) * width
    inputs = (padded.reshape(blocks, width, -1), offset.reshape(blocks, width), first_indices)
    return lax.scan(compare_block, start, inputs)[0][1]


def kmeans(
    rng: Array, x: Array, weight: Array, k: int, iterations: int, spherical: bool
) -> tuple[Array, Array]:
    """Lloyd's k-means of the rows of x.

    An empty cluster keeps its centroid.

    Args:
      rng: a random key, for the start: k different rows, drawn by their weights.
      x: float [N, D].
      weight: [N]; rows of weight 0 do not count.
      k: the number of clusters.
      iterations: each assigns the rows, then moves the centroids.
      spherical: centroids are unit vectors, as in DeepCluster v2 (facebookresearch/swav
        main_deepclusterv2.py); False: plain k-means, as in DeepCluster.

    Returns:
      (centroids float32 [k, D], assignment int32 [N]).
    """
    x = x.astype(jnp.float32)
    weight = weight.astype(jnp.float32)
    start = jax.random.choice(rng, len(x), (k,), replace=False, p=weight / weight.sum())

    def move(_, centroids):
        assignment = nearest_index(x, centroids, spherical)
        total = jax.ops.segment_sum(x * weight[:, None], assignment, k)
        count = jax.ops.segment_sum(weight, assignment, k)[:, None]
        moved = jnp.where(count > 0, total / jnp.maximum(count, 1e-9), centroids)
        return l2_normalize(moved) if spherical else moved

    centroids = l2_normalize(x[start]) if spherical else x[start]
    centroids = lax.fori_loop(0, iterations, move, centroids)
    return centroids, nearest_index(x, centroids, spherical)


def whiten(x: Array, weight: Array, dims: int) -> Array:
    """PCA with whitening: float32 [N, min(dims, D)] of unit variance, the largest component first.

    Source: DeepCluster (Caron et al. 2018), section 3.3; its clustering.py.

    Args:
      x: float [N, D].
      weight: [N]; rows of weight 0 do not count in the mean and the covariance.
      dims: the number of components to keep.
    """
    x = x.astype(jnp.float32)
    total = weight.sum()
    x = x - (x * weight[:, None]).sum(0) / total
    highest = lax.Precision.HIGHEST
    covariance = jnp.matmul((x * weight[:, None]).T, x, precision=highest) / total
    values, vectors = jnp.linalg.eigh(covariance)
    kept = slice(None, -min(dims, x.shape[1]) - 1, -1)  # eigh sorts in ascending order
    scale = lax.rsqrt(jnp.maximum(values[kept], 1e-6 * values[-1]))
    return jnp.matmul(x, vectors[:, kept] * scale, precision=highest)


def require_arrays(**arguments: tuple[Any, str]) -> None:
    """Checks shapes and dtypes of arguments, in the notation of docstrings, with chex.

    The check reads only shapes and dtypes: it costs nothing at run time and changes no program.

    Example: ``require_arrays(logits=(logits, "float [N, K]"), labels=(labels, "int [N]"))``.

    Args:
      **arguments: name=(array, specification). None instead of an array is not checked. A
        specification is a shape in brackets, optionally after a dtype: "float", "int", "uint" (int
        without a sign) or "bool", each of any width. In the shape, a number is a size, and a name
        is one size wherever it occurs. "..." stands for any dimensions, the same wherever it
        occurs. " or []" after the shape also allows a scalar.

    Raises:
      AssertionError: an array differs from its specification. The message contains the name and
        the specification, and the names, dtypes and shapes of all arguments.
    """
    given = ", ".join(f"{name} {_describe(x)}" for name, (x, _) in arguments.items())
    sizes: dict[str, Any] = {}
    for name, (x, specification) in arguments.items():
        match = re.fullmatch(r"(?:(\w+) )?\[([^\]]*)\]( or \[\])?", specification)
        if match is None:
            raise ValueError(f"{name}: {specification!r} is no specification")
        if x is None:
            continue
        message = {
            "custom_message": f"{name} must be {specification}; given: {given}",
            "include_default_message": False,
        }
        dtype, shape, or_scalar = match.groups()
        if dtype == "uint":
            is_unsigned = jnp.issubdtype(x.dtype, jnp.unsignedinteger)
            chex.assert_type(x, x.dtype if is_unsigned else np.uint8, **message)
        elif dtype:
            chex.assert_type(x, DTYPES[dtype], **message)
        if not (or_scalar and np.ndim(x) == 0):
            dims = re.split(", *", shape) if shape else []
            chex.assert_shape(x, _expected_shape(dims, np.shape(x), sizes), **message)


def _expected_shape(
    dims: list[str], shape: tuple[int, ...], sizes: dict[str, Any]
) -> tuple[int | None, ...]:
    """The shape that `dims` requires, with None for a name of unknown size.

    If the rank is right, names that `sizes` does not have get their sizes from `shape`.
    """
    if "..." in dims:
        start = dims.index("...")
        stop = len(shape) - (len(dims) - start - 1)
        rest = sizes.setdefault("...", shape[start:stop])
        dims = [*dims[:start], *map(str, rest), *dims[start + 1 :]]
    if len(dims) == len(shape):
        for dim, size in zip(dims, shape, strict=True):
            sizes.setdefault(dim, size)
    return tuple(int(dim) if dim.isdigit() else sizes.get(dim) for dim in dims)


def _describe(x: Any) -> str:
    """Dtype and shape, such as float32[8, 128]."""
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(np.shape(x))}"
