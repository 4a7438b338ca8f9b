"""Linear probe: softmax regression on frozen features, for a grid of lr and weight decay at once.

SGD, momentum 0.9, cosine decay to 0, a learning rate per 256 examples, scaled by batch / 256 (MoCo
v3 ``main_lincls.py``, DINO ``eval_linear.py``). Features may be standardized, as by the BatchNorm
without affine before MAE's head (arXiv 2111.06377, appendix A.1; eps of its ``main_linprobe.py``),
with the statistics of all training rows. Many heads at once, as in DINOv2's ``eval/linear.py``.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import UserError, schema
from jssl.evals.knn import labelled, one_device, place


def probe(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes: int,
    lrs: tuple,
    weight_decays: tuple,
    epochs: int,
    batch_size: int,
    held_out: float,
    standardize: bool,
    seed: int,
    mesh: Mesh | None = None,
    progress=None,
) -> dict:
    """Top-1 on test of the (lr, weight decay) that is best on a held-out part of train.

    train [N, D], test [M, D] floats, labels int [N], [M], -1 = unlabelled (left out); all whole on
    every process, as in `knn.top1`. All pairs of `lrs` and `weight_decays` learn 1 - `held_out` of
    train, drawn by `seed`; the best on the rest learns all of train anew and meets test once. A
    mesh's devices, each with all features, share out the grid: its points are independent.
    `progress(done, total)` is called after each epoch, of the grid and then of the winner.

    Returns top1 and held_out_top1 (0..1), lr (per 256 examples), weight_decay, n_train, n_test.
    Raises UserError on values out of range, if every point diverges, and as `knn.labelled` does.
    """
    given = {"lrs": lrs, "weight_decays": weight_decays, "epochs": epochs}
    given |= {"batch_size": batch_size, "held_out": held_out}
    for key, value in given.items():
        schema.check_key(f"eval.linear_{key}", value)
    x, y = labelled(train, train_labels, classes=classes, name="train")
    test, test_labels = labelled(test, test_labels, classes=classes, name="test")
    kept, held = split(len(x), held_out, seed)
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
    right, cost = measure(*learn(kept, grid), x[held], y[held], mesh=mesh)
    right = np.where(np.isfinite(cost), right, -1)[: len(grid)]  # the answer of not-a-number is 0
    best = np.lexsort((cost[: len(grid)], -right))[0]  # ties go to the lower cross-entropy
    if right[best] < 0:
        raise UserError(f"eval.linear_lrs={lrs} all diverged; try {min(lrs) / 100:g} and above")
    winner = learn(np.arange(len(x)), grid[best : best + 1])
    return {
        "top1": int(measure(*winner, test, test_labels, mesh=mesh)[0][0]) / len(test),
        "held_out_top1": int(right[best]) / len(held),
        "lr": grid[best][0],
        "weight_decay": grid[best][1],
        "n_train": len(x),
        "n_test": len(test),
    }


def split(n: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of n that are kept and held out, by seed; at least one of each."""
    if n < 2:
        raise UserError("eval: 1 labelled train example leaves none to hold out; label some more")
    rows = np.random.default_rng(seed).permutation(n)
    return np.split(rows, [min(max(round((1 - held_out) * n), 1), n - 1)])


def fit(x, y, rows, grid, *, classes, epochs, batch_size, standardize, seed, mesh, progress):
    """Heads [D + 1, G, C] for the G points of `grid`, repeated up to a multiple of devices, from
    zero on `rows` of x [N, D], y [N]; and the (mean, scale) that features are standardized with."""
    grid = np.resize(np.float32(grid), (-(-len(grid) // mesh.size) * mesh.size, 2))
    moments = statistics(x, rows) if standardize else (np.float32(0), np.float32(1))
    zeros = np.zeros((x.shape[1] + 1, len(grid), classes), np.float32)
    heads = velocity = place(zeros, mesh, P(None, mesh.axis_names))
    batch = min(batch_size, len(rows))
    steps = len(rows) // batch  # an epoch's last, smaller batch is dropped, as in MAE
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(rows)[: steps * batch].reshape(steps, batch)
        done = (epoch * steps + np.arange(steps)) / (epochs * steps)
        rates = np.float32(batch / 256 * 0.5 * (1 + np.cos(np.pi * done)))
        heads, velocity = train_epoch(heads, velocity, x, y, moments, order, rates, grid)
        if progress:
            jax.block_until_ready(heads)
            progress(epoch + 1, epochs)
    return heads, moments


@jax.jit
def statistics(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x[rows]
    return x.mean(axis=0), jnp.sqrt(x.var(axis=0) + 1e-6)


def logits(heads: jax.Array, moments, x: jax.Array) -> jax.Array:
    """[B, G, C] of x [B, D] in one full float32 matmul; the last row of a head is its bias."""
    x = jnp.pad((x - moments[0]) / moments[1], ((0, 0), (0, 1)), constant_values=1)
    return jnp.einsum("bd,dgc->bgc", x, heads, precision="highest")


def loss(heads: jax.Array, moments, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy summed over the heads, none of which is in the term of another."""
    log_p = jax.nn.log_softmax(logits(heads, moments, x))
    return -jnp.take_along_axis(log_p, y[:, None, None], axis=-1).mean(axis=0).sum()


@jax.jit
def train_epoch(heads, velocity, x, y, moments, order, rates, grid) -> tuple[jax.Array, jax.Array]:
    """One SGD step per row of order int32 [S, B], at `rates` [S] times the grid's lr [G].

    v = 0.9 v + gradient + decay * weight, weight -= lr * v, as torch.optim.SGD; the bias does not
    decay, as in penalized regression (Hastie et al., Elements of Statistical Learning, 4.4.4)."""
    lr = grid[:, :1]
    decay = grid[:, 1:]  # [G, 1] over the classes

    def step(carry, now):
        (heads, velocity) = carry
        (rows, rate) = now
        gradient = jax.grad(loss)(heads, moments, x[rows], y[rows])
        velocity = 0.9 * velocity + gradient + decay * heads.at[-1].set(0)
        return (heads - rate * lr * velocity, velocity), None

    return jax.lax.scan(step, (heads, velocity), (order, rates))[0]


@functools.partial(jax.jit, static_argnames="mesh")
def measure(heads, moments, x, y, *, mesh) -> tuple[jax.Array, jax.Array]:
    """Right answers int32 [G] and mean cross-entropy float32 [G] of x [M, D], y [M]."""

    def one(row):
        log_p = jax.nn.log_softmax(logits(heads, moments, row[0][None])[0])
        return log_p.argmax(axis=-1) == row[1], -log_p[:, row[1]]

    right, cost = jax.lax.map(one, (x, y), batch_size=1024)
    everywhere = NamedSharding(mesh, P())
    return jax.lax.with_sharding_constraint((right.sum(axis=0), cost.mean(axis=0)), everywhere)
