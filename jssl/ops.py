"""Small pure functions that more than one method needs."""

import jax
import jax.numpy as jnp
from jax import lax

from jssl.parallel.mesh import replicate

COLUMNS = 1024  # centroids that are compared with all rows at a time


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(|x|, eps) along the last axis, as torch.nn.functional.normalize has it.

    Args:
      x: float [..., D].
      eps: the norm below which a row is only divided by `eps`; a row of zeros stays zero.

    Returns:
      float32 [..., D]. Rows are divided by their largest element first, so that no square
      underflows or overflows: rows of any norm from `eps` to 3e38 are unit vectors, and their
      gradient has no part along the row. A row with an infinite element is NaN there.
    """
    x = x.astype(jnp.float32)
    largest = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    y = x / jnp.where(largest > 0, largest, 1)  # the result does not depend on the divisor
    square = jnp.square(y).sum(-1, keepdims=True)
    norm = largest * jnp.sqrt(lax.stop_gradient(square))
    return jnp.where(norm < eps, x / eps, y * lax.rsqrt(jnp.where(norm < eps, 1, square)))


def standardize(x, eps: float = 1e-5):
    """(x - mean) / deviation of each column over the batch, in float32: BatchNorm, no affine."""
    x = x.astype(jnp.float32)
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + eps)  # rsqrt's gradient underflows from 1e13 on


def layer_norm_rows(x, eps: float = 1e-5):
    """(x - mean) / deviation along the last axis, in float32: LayerNorm without parameters."""
    x = x.astype(jnp.float32)
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def patchify(images, patch: int):
    """[B, H, W, C] -> [B, H/p * W/p, p * p * C]: rows of patches, pixels in order (row, column,
    channel) as in MAE's models_mae.py."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches, patch: int, channels: int):
    """The inverse of `patchify` for square images: [B, N, p * p * C] -> [B, H, W, C]."""
    b, n, _ = patches.shape
    side = round(n**0.5)
    x = patches.reshape(b, side, side, patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * patch, side * patch, channels)


def normalize_patches(patches: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each patch of [..., P] by its own mean and variance: (normalized, mean, deviation).

    MAE, section 4.2; models_mae.py `norm_pix_loss`, whose torch.var divides by n - 1.
    """
    mean = patches.mean(-1, keepdims=True)
    variance = patches.var(-1, ddof=1, keepdims=True)
    deviation = jnp.sqrt(variance + 1e-6)
    return (patches - mean) / deviation, mean, deviation


def ema(old, new, decay):
    """decay * old + (1 - decay) * new, leaf by leaf; no gradient flows to `new`."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * lax.stop_gradient(b), old, new)


def cosine_schedule(step, steps: int, first: float, last: float):
    """`first` at step 0, `last` at `steps`, half a cosine between (BYOL, section 3.2)."""
    return last - (last - first) * (jnp.cos(jnp.pi * step / steps) + 1) / 2


def linear_schedule(step, steps: int, first: float, last: float):
    """A straight line from `first` at step 0 to `last` at `steps`, and `last` from there on."""
    return first + (last - first) * jnp.minimum(step / max(steps, 1), 1)


def enqueue(queue, z):
    """[N, D] with the rows of z [B, D] first; the oldest B rows fall out."""
    return jnp.concatenate([lax.stop_gradient(z).astype(queue.dtype), queue])[: len(queue)]


def sinkhorn(scores, epsilon: float, iterations: int, weight=None):
    """Soft assignments [B, K] of B rows to K prototypes that share the batch out evenly; rows sum
    to 1 (SwAV, Caron et al. 2020, section 3.1 and appendix A.1). No gradient flows through. Rows
    whose `weight` [B] is 0 do not count in the balance, if others do."""
    log_q = lax.stop_gradient(scores).astype(jnp.float32) / epsilon
    if weight is not None:
        weight = jnp.where(weight.any(), weight, 1.0)[:, None]
    for _ in range(iterations):  # in logarithms: exp of unbounded scores would overflow
        log_q = log_q - jax.nn.logsumexp(log_q, axis=0, keepdims=True, b=weight)
        log_q = log_q - jax.nn.logsumexp(log_q, axis=1, keepdims=True)
    return jnp.exp(log_q)


def nearest_index(x, centroids, spherical: bool):
    """int32 [N]: which of the centroids [K, D] is nearest to each row of x [N, D]: by the inner
    product if `spherical`, else by Euclid. No [N, K] matrix is held, only [N, COLUMNS]."""
    k = len(centroids)
    width = min(COLUMNS, len(centroids))
    centroids = replicate(centroids)
    blocks = -(-k // width)
    half = 0.0 if spherical else jnp.square(centroids).sum(1) / 2
    offset = jnp.full(blocks * width, -jnp.inf).at[:k].set(-half)
    padded = jnp.pad(centroids, ((0, blocks * width - k), (0, 0)))

    def better(carry, part):
        best, found = carry
        centroids, offset, first = part
        score = jnp.matmul(x, centroids.T, precision=lax.Precision.HIGHEST) + offset
        here = score.max(1)
        return (
            jnp.maximum(best, here),
            jnp.where(here > best, first + score.argmax(1).astype(jnp.int32), found),
        ), None

    start = (jnp.full(len(x), -jnp.inf), jnp.zeros(len(x), jnp.int32))
    firsts = jnp.arange(blocks, dtype=jnp.int32) * width
    parts = (padded.reshape(blocks, width, -1), offset.reshape(blocks, width), firsts)
    return lax.scan(better, start, parts)[0][1]


def kmeans(rng, x, weight, k: int, iterations: int, spherical: bool):
    """Lloyd's k-means: (centroids [k, D], assignment int32 [N]) of the rows of x [N, D].

    Starts at k different rows drawn by `weight` [N]; rows of weight 0 do not count. An empty
    cluster stays where it was. `spherical`: centroids are unit vectors, as DeepCluster v2's
    (facebookresearch/swav main_deepclusterv2.py); else plain k-means, as in DeepCluster.
    """
    x = x.astype(jnp.float32)
    weight = weight.astype(jnp.float32)
    start = jax.random.choice(rng, len(x), (k,), replace=False, p=weight / weight.sum())

    def again(_, centroids):
        found = nearest_index(x, centroids, spherical)
        total = jax.ops.segment_sum(x * weight[:, None], found, k)
        count = jax.ops.segment_sum(weight, found, k)[:, None]
        moved = jnp.where(count > 0, total / jnp.maximum(count, 1e-9), centroids)
        return l2_normalize(moved) if spherical else moved

    centroids = l2_normalize(x[start]) if spherical else x[start]
    centroids = lax.fori_loop(0, iterations, again, centroids)
    return centroids, nearest_index(x, centroids, spherical)


def whiten(x, weight, dims: int):
    """PCA of the rows of x [N, D] that have weight: [N, min(dims, D)] of unit variance, in order
    of variance (DeepCluster, Caron et al. 2018, section 3.3; its clustering.py)."""
    x = x.astype(jnp.float32)
    total = weight.sum()
    x = x - (x * weight[:, None]).sum(0) / total
    high = lax.Precision.HIGHEST
    covariance = jnp.matmul((x * weight[:, None]).T, x, precision=high) / total
    values, vectors = jnp.linalg.eigh(covariance)
    few = slice(None, -min(dims, x.shape[1]) - 1, -1)  # the largest first
    scale = lax.rsqrt(jnp.maximum(values[few], 1e-6 * values[-1]))
    return jnp.matmul(x, vectors[:, few] * scale, precision=high)
