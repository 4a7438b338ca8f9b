"""Linear probe: softmax regression on frozen features, for a grid of lr and weight decay at once.

SGD, momentum 0.9, cosine decay to 0, a learning rate per 256 examples that is scaled by batch / 256
(MoCo v3 ``main_lincls.py``, DINO ``eval_linear.py``). Features may be standardized with the
statistics of all training rows, as by the BatchNorm without affine before MAE's head (arXiv
2111.06377, appendix A.1; eps of its ``main_linprobe.py``). All heads train at once, as in DINOv2's
``eval/linear.py``.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from numpy.typing import ArrayLike

from jssl.config import ConfigError, UserError, schema
from jssl.evals.knn import labeled, one_device, place
from jssl.parallel.mesh import replicated

Moments = tuple[jax.Array | np.floating, jax.Array | np.floating]  # mean [D] and scale [D], or []


def probe(
    train: ArrayLike,
    train_labels: ArrayLike | None,
    test: ArrayLike,
    test_labels: ArrayLike | None,
    *,
    classes: int,
    lrs: tuple[float, ...],
    weight_decays: tuple[float, ...],
    epochs: int,
    batch_size: int,
    val_fraction: float,
    standardize: bool,
    seed: int,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Returns top-1 on test of the (lr, weight decay) that is best on a held-out part of train.

    All points of the grid train on a part of train. The point that is best on the held-out rest
    trains again on all of train, and is then measured once on test. Every device of the mesh holds
    all features, and the points of the grid are split over the devices: they are independent.

    Args:
      train: float [N, D], whole on every process, as in `knn.top1`.
      train_labels: int [N]; -1 means unlabeled (left out).
      test: float [M, D].
      test_labels: int [M]; -1 means unlabeled (left out).
      classes: number of classes.
      lrs: learning rates per 256 examples.
      weight_decays: weight decays. The grid holds all pairs.
      epochs: epochs of each training.
      batch_size: examples of a batch.
      val_fraction: fraction of train that is held out, drawn by `seed`.
      standardize: whether features are standardized.
      seed: seed of the held-out part and of the order of the examples.
      mesh: the device mesh; None: one device.
      progress: progress(done, total) is called after each epoch, of the grid and then of the best
        point.

    Returns:
      top1 and held_out_top1 (0..1), lr (per 256 examples), weight_decay, n_train, n_test.

    Raises:
      UserError: a value is out of range, or every point diverges; or as `knn.labeled` does.
    """
    options = {"lrs": lrs, "weight_decays": weight_decays, "epochs": epochs}
    options |= {"batch_size": batch_size, "val_fraction": val_fraction}
    for key, value in options.items():
        schema.check_key(f"eval.linear_{key}", value)
    x, y = labeled(train, train_labels, classes=classes, name="train")
    test_x, test_y = labeled(test, test_labels, classes=classes, name="test")
    kept_rows, held_rows = split(len(x), val_fraction, seed)
    mesh = mesh or one_device()
    learn = functools.partial(
        fit,
        place(x, mesh, P()),
        place(y, mesh, P()),
        classes=classes,
        epochs=epochs,
        batch_size=batch_size,
        standardize=standardize,
        seed=seed,
        mesh=mesh,
        progress=progress,
    )
    grid = list(itertools.product(lrs, weight_decays))
    right, cost = measure(*learn(kept_rows, grid), x[held_rows], y[held_rows], mesh=mesh)
    right = np.where(np.isfinite(cost), right, -1)[: len(grid)]  # argmax of not-a-number is class 0
    best = np.lexsort((cost[: len(grid)], -right))[0]  # ties go to the lower cross-entropy
    if right[best] < 0:
        raise ConfigError(
            "config.eval.linear_lrs", lrs, "all diverged", f"try {min(lrs) / 100:g} and above"
        )
    winner = learn(np.arange(len(x)), grid[best : best + 1])
    return {
        "top1": int(measure(*winner, test_x, test_y, mesh=mesh)[0][0]) / len(test_x),
        "held_out_top1": int(right[best]) / len(held_rows),
        "lr": grid[best][0],
        "weight_decay": grid[best][1],
        "n_train": len(x),
        "n_test": len(test_x),
    }


def split(n: int, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows, of n, that are kept and held out, drawn by `seed`; at least one of each.

    Raises:
      UserError: n is 1.
    """
    if n < 2:
        raise UserError("eval: 1 labeled train example leaves none to hold out; label some more")
    rows = np.random.default_rng(seed).permutation(n)
    kept = min(max(round((1 - val_fraction) * n), 1), n - 1)
    return rows[:kept], rows[kept:]


def fit(
    x: jax.Array,
    y: jax.Array,
    rows: np.ndarray,
    grid: Sequence[tuple[float, float]],
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    standardize: bool,
    seed: int,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None,
) -> tuple[jax.Array, Moments]:
    """Trains one head, from zero, for each point of a grid.

    Args:
      x: float32 [N, D], features.
      y: int32 [N], labels.
      rows: int [n], the rows to train on.
      grid: G points (lr, weight decay); repeated up to a multiple of the devices.
      classes: number of classes, C.
      epochs: number of epochs.
      batch_size: examples of a batch.
      standardize: whether features are standardized.
      seed: seed of the order of the examples.
      mesh: the device mesh.
      progress: progress(done, total) is called after each epoch.

    Returns:
      Heads [D + 1, G, C], and the (mean, scale) that standardize the features.
    """
    points = np.resize(np.asarray(grid, np.float32), (-(-len(grid) // mesh.size) * mesh.size, 2))
    moments = statistics(x, rows) if standardize else (np.float32(0), np.float32(1))
    zeros = np.zeros((x.shape[1] + 1, len(points), classes), np.float32)
    heads = place(zeros, mesh, P(None, mesh.axis_names))
    velocity = heads
    batch = min(batch_size, len(rows))
    steps = len(rows) // batch  # an epoch's last, smaller batch is dropped, as in MAE
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(rows)[: steps * batch].reshape(steps, batch)
        done = (epoch * steps + np.arange(steps)) / (epochs * steps)
        rates = np.asarray(batch / 256 * 0.5 * (1 + np.cos(np.pi * done)), np.float32)
        heads, velocity = train_epoch(heads, velocity, x, y, moments, order, rates, points)
        if progress:
            jax.block_until_ready(heads)
            progress(epoch + 1, epochs)
    return heads, moments


@jax.jit
def statistics(x: jax.Array, rows: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns the mean [D] and the standard deviation [D] of rows of x [N, D]; eps 1e-6."""
    x = x[rows]
    return x.mean(axis=0), jnp.sqrt(x.var(axis=0) + 1e-6)


def logits(heads: jax.Array, moments: Moments, x: jax.Array) -> jax.Array:
    """Returns the logits [B, G, C] of x [B, D], in one matmul of full float32 precision.

    The last row of a head is its bias.
    """
    x = jnp.pad((x - moments[0]) / moments[1], ((0, 0), (0, 1)), constant_values=1)
    return jnp.einsum("bd,dgc->bgc", x, heads, precision="highest")


def loss(heads: jax.Array, moments: Moments, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy, summed over the heads, which are independent."""
    log_p = jax.nn.log_softmax(logits(heads, moments, x))
    return -jnp.take_along_axis(log_p, y[:, None, None], axis=-1).mean(axis=0).sum()


@jax.jit
def train_epoch(
    heads: jax.Array,
    velocity: jax.Array,
    x: jax.Array,
    y: jax.Array,
    moments: Moments,
    order: jax.Array | np.ndarray,
    rates: jax.Array | np.ndarray,
    grid: jax.Array | np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """Takes one SGD step for each row of `order`.

    v = 0.9 v + gradient + decay * weight, weight -= lr * v, as torch.optim.SGD. The bias does not
    decay, as in penalized regression (Hastie et al., Elements of Statistical Learning, 4.4.4).

    Args:
      heads: float32 [D + 1, G, C].
      velocity: float32 [D + 1, G, C].
      x: float32 [N, D], features.
      y: int32 [N], labels.
      moments: the (mean, scale) that standardize the features.
      order: int32 [S, B], the examples of each step.
      rates: float32 [S], factors of the learning rates.
      grid: float32 [G, 2], learning rates and weight decays.

    Returns:
      The next heads and velocity.
    """
    lr = grid[:, :1]
    decay = grid[:, 1:]  # [G, 1] over the classes

    def step(carry, inputs):
        (heads, velocity) = carry
        (rows, rate) = inputs
        gradient = jax.grad(loss)(heads, moments, x[rows], y[rows])
        velocity = 0.9 * velocity + gradient + decay * heads.at[-1].set(0)
        return (heads - rate * lr * velocity, velocity), None

    return jax.lax.scan(step, (heads, velocity), (order, rates))[0]


@functools.partial(jax.jit, static_argnames="mesh")
def measure(
    heads: jax.Array,
    moments: Moments,
    x: jax.Array | np.ndarray,
    y: jax.Array | np.ndarray,
    *,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
    """Returns the correct predictions int32 [G] and the mean cross-entropy float32 [G].

    x is float32 [M, D], y is int32 [M].
    """

    def measure_row(row):
        log_p = jax.nn.log_softmax(logits(heads, moments, row[0][None])[0])
        return log_p.argmax(axis=-1) == row[1], -log_p[:, row[1]]

    right, cost = jax.lax.map(measure_row, (x, y), batch_size=1024)
    sums = right.sum(axis=0), cost.mean(axis=0)
    return jax.lax.with_sharding_constraint(sums, replicated(mesh))
