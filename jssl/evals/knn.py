"""Weighted k-nearest-neighbour classification on frozen features, with nothing to train.

Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
arXiv 1805.01978, section 3.4: the k neighbours of highest cosine similarity s_i vote for their
class with weight exp(s_i / T); the class with the largest sum is the prediction. It is what DINO's
``eval_knn.py`` and lightly's ``utils/benchmarking/knn.py`` compute. Common choices: k=200, T=0.1
(lightly on CIFAR-10), k=20, T=0.07 (DINO on ImageNet).
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import UserError, schema

log = logging.getLogger(__name__)


def top1(
    bank,
    bank_labels,
    queries,
    labels,
    *,
    classes: int,
    k: int,
    temperature: float,
    mesh: Mesh | None = None,
    chunk: int,
) -> float:
    """Fraction (0..1) of the labelled queries that their neighbours in the bank classify rightly.

    bank [N, D] and queries [M, D] are floats, their labels int [N] and [M], -1 = unlabelled (left
    out). All four are whole on every process: NumPy, or arrays that `np.asarray` can fetch. `chunk`
    queries at a time, rounded up to a multiple of the devices, are spread over all axes of `mesh`
    (None: one device) with the bank copied to each, so that float32 [chunk, N] similarities over
    all devices are the most that is held; one program is compiled, however many chunks there are.

    A k above the bank's size is lowered to it with a warning, so that small data just works.
    Ties are settled alike everywhere: the earlier bank row is nearer, the lower class wins.
    Raises UserError if k, temperature or chunk is not positive, or see `labelled`.
    """
    for key, value in (("knn_k", k), ("knn_temperature", temperature), ("batch_size", chunk)):
        schema.check_key(f"eval.{key}", value)
    bank, bank_labels = labelled(bank, bank_labels, classes=classes, name="train")
    queries, labels = labelled(queries, labels, classes=classes, name="test")
    if k > len(bank):
        log.warning("eval.knn_k=%d is above the %d labelled examples to vote; all do", k, len(bank))
        k = len(bank)

    mesh = mesh or one_device()
    chunk = -(-chunk // mesh.size) * mesh.size
    bank = place(unit(bank), mesh, P())
    bank_labels = place(bank_labels, mesh, P())
    hits = 0
    for start in range(0, len(queries), chunk):
        part = place(pad(unit(queries[start : start + chunk]), chunk, 0), mesh, P(mesh.axis_names))
        truth = place(pad(labels[start : start + chunk], chunk, -1), mesh, P(mesh.axis_names))
        hits += count_hits(
            bank, bank_labels, part, truth, temperature, mesh=mesh, k=k, classes=classes
        )
    return int(hits) / len(queries)


@functools.partial(jax.jit, static_argnames=("mesh", "k", "classes"))
def count_hits(
    bank: Array, bank_labels: Array, queries: Array, labels: Array, temperature, *, mesh, k, classes
) -> Array:
    """int32[]: how many predictions equal `labels` [B]; a label of -1 (padding) never does."""
    rows = P(mesh.axis_names)
    # left to XLA, top_k gathers every device's similarities first; the queries are independent
    vote = jax.shard_map(
        lambda *args: predict(*args, k=k, classes=classes),
        mesh=mesh,
        in_specs=(P(), P(), rows, P()),
        out_specs=rows,
    )
    return jnp.sum(vote(bank, bank_labels, queries, temperature) == labels)


def predict(bank: Array, bank_labels: Array, queries: Array, temperature, *, k: int, classes: int):
    """Classes int32 [B] of unit queries [B, D] by their k neighbours in a unit bank [N, D]."""
    # full float32: TF32 or bfloat16 products would swap neighbours
    similarity = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    nearest, index = jax.lax.top_k(similarity, k)
    # exp(1 / T) overflows from T = 0.011 down; a common factor does not change the argmax
    # (max, though the first is the largest: XLA's CPU turns a sliced top_k into a sort, 20x slower)
    weight = jnp.exp((nearest - nearest.max(axis=1, keepdims=True)) / temperature)
    # a masked sum fuses into one loop; a scatter-add is not deterministic on GPUs
    mine = bank_labels[index][..., None] == jnp.arange(classes)
    votes = jnp.sum(jnp.where(mine, weight[..., None], 0.0), axis=1)
    return jnp.argmax(votes, axis=-1)


def labelled(features, labels, *, classes: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have a label, as NumPy float32 [n, D] and int32 [n]; logs how many had none.

    Raises UserError if no row has one, if a label is not below `classes`, or if a feature is not
    finite. `name` is the split that a message speaks of.
    """
    features = np.asarray(features, np.float32)
    labels = np.asarray(labels, np.int32)
    known = labels >= 0
    if not known.any():
        raise UserError(
            f"eval: none of the {len(labels)} {name} examples has a label, and accuracy needs some;"
            f" choose a labelled data set or split for the {name} side of eval, or turn eval off"
        )
    if labels.max() >= classes:
        raise UserError(
            f"eval: classes={classes} but the {name} split has label {labels.max()}; "
            f"set the number of classes to {labels.max() + 1} or more"
        )
    if not known.all():
        log.info(
            "eval: %d of %d %s examples unlabelled, left out", (~known).sum(), len(known), name
        )
        features = features[known]
        labels = labels[known]
    bad = len(features) - np.isfinite(features).all(axis=1).sum()
    if bad:
        raise UserError(
            f"eval: {bad} of {len(features)} {name} features are not finite: the encoder diverged; "
            "evaluate an earlier step, or train with a lower learning rate"
        )
    return features, labels


def one_device() -> Mesh:
    return Mesh(np.array(jax.local_devices()[:1]), ("data",), axis_types=(AxisType.Auto,))


def place(x: np.ndarray, mesh: Mesh, spec: P) -> Array:
    """A global array from a host array that every process holds whole."""
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i: x[i])


def unit(x: np.ndarray) -> np.ndarray:
    """Rows [B, D] of length 1; a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def pad(x: np.ndarray, size: int, value) -> np.ndarray:
    missing = [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, missing, constant_values=value)
