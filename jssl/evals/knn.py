"""Weighted k-nearest-neighbor classification on frozen features, without training.

Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
arXiv 1805.01978, section 3.4: the k neighbors of highest cosine similarity s_i vote for their class
with weight exp(s_i / T). The class with the largest sum is the prediction. DINO's ``eval_knn.py``
and lightly's ``utils/benchmarking/knn.py`` compute the same. Common choices: k=200, T=0.1 (lightly
on CIFAR-10), k=20, T=0.07 (DINO on ImageNet).
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import ArrayLike

from jssl.config import UserError, schema

log = logging.getLogger(__name__)


def top1(
    bank: ArrayLike,
    bank_labels: ArrayLike | None,
    queries: ArrayLike,
    labels: ArrayLike | None,
    *,
    classes: int,
    k: int,
    temperature: float,
    mesh: Mesh | None = None,
    chunk: int,
) -> float:
    """Returns the fraction (0..1) of the labeled queries whose class is predicted correctly.

    All arrays are whole on every process: NumPy, or arrays that `np.asarray` can fetch. The bank is
    copied to each device, and the queries are split over all axes of the mesh. The largest array is
    float32 [chunk, N] of similarities, over all devices. One program is compiled for any number of
    chunks.

    A `k` above the size of the bank is lowered to it with a warning, so that small data works. Ties
    are resolved alike on all devices: the earlier bank row is nearer, and the lower class wins.

    Args:
      bank: float [N, D], the features of the training set.
      bank_labels: int [N]; -1 means unlabeled (left out).
      queries: float [M, D], the features of the test set.
      labels: int [M]; -1 means unlabeled (left out).
      classes: number of classes.
      k: number of neighbors.
      temperature: T.
      mesh: the device mesh; None: one device.
      chunk: number of queries at a time, rounded up to a multiple of the devices.

    Raises:
      UserError: k, temperature or chunk is not positive; or as `labeled` does.
    """
    for key, value in (("knn_k", k), ("knn_temperature", temperature), ("batch_size", chunk)):
        schema.check_key(f"eval.{key}", value)
    bank_features, bank_classes = labeled(bank, bank_labels, classes=classes, name="train")
    query_features, query_classes = labeled(queries, labels, classes=classes, name="test")
    if k > len(bank_features):
        log.warning(
            "--config.eval.knn_k=%d is above the %d labeled examples to vote; all do",
            k,
            len(bank_features),
        )
        k = len(bank_features)

    mesh = mesh or one_device()
    chunk = -(-chunk // mesh.size) * mesh.size
    device_bank = place(unit(bank_features), mesh, P())
    device_labels = place(bank_classes, mesh, P())
    by_row = P(mesh.axis_names)
    hits = 0
    for start in range(0, len(query_features), chunk):
        chunk_queries = unit(query_features[start : start + chunk])
        hits += count_hits(
            device_bank,
            device_labels,
            place(pad(chunk_queries, chunk, 0), mesh, by_row),
            place(pad(query_classes[start : start + chunk], chunk, -1), mesh, by_row),
            temperature,
            mesh=mesh,
            k=k,
            classes=classes,
        )
    return int(hits) / len(query_features)


@functools.partial(jax.jit, static_argnames=("mesh", "k", "classes"))
def count_hits(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    labels: Array,
    temperature: float | Array,
    *,
    mesh: Mesh,
    k: int,
    classes: int,
) -> Array:
    """Returns the number of predictions that equal `labels` [B]: int32 [].

    A label of -1 (padding) never equals a prediction.
    """
    rows = P(mesh.axis_names)
    # shard_map, because XLA would gather the similarities of all devices for top_k
    vote = jax.shard_map(
        lambda *args: predict(*args, k=k, classes=classes),
        mesh=mesh,
        in_specs=(P(), P(), rows, P()),
        out_specs=rows,
    )
    return jnp.sum(vote(bank, bank_labels, queries, temperature) == labels)


def predict(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    temperature: float | Array,
    *,
    k: int,
    classes: int,
) -> Array:
    """Predicts the classes int32 [B] of queries [B, D] by their k neighbors in a bank [N, D].

    The rows of both have length 1.
    """
    # full float32: TF32 or bfloat16 products would swap neighbors
    similarity = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    nearest, index = jax.lax.top_k(similarity, k)
    # exp(1 / T) overflows for T <= 0.011; a common factor does not change the argmax
    # (max, although the first is the largest: on CPUs XLA turns a sliced top_k into a sort, which
    # is 20x slower)
    weight = jnp.exp((nearest - nearest.max(axis=1, keepdims=True)) / temperature)
    # a masked sum fuses into one loop; a scatter-add is not deterministic on GPUs
    is_class = bank_labels[index][..., None] == jnp.arange(classes)
    votes = jnp.sum(jnp.where(is_class, weight[..., None], 0.0), axis=1)
    return jnp.argmax(votes, axis=-1)


def labeled(
    features: ArrayLike, labels: ArrayLike | None, *, classes: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that have a label: float32 [n, D] and int32 [n]. Logs how many have none.

    Args:
      features: float [N, D].
      labels: int [N]; -1 means unlabeled.
      classes: number of classes.
      name: the split that messages name.

    Raises:
      UserError: no row has a label, a label is not below `classes`, or a feature is not finite.
    """
    features = np.asarray(features, np.float32)
    labels = np.asarray(labels, np.int32)
    has_label = labels >= 0
    if not has_label.any():
        raise UserError(
            f"eval: none of the {len(labels)} {name} examples has a label, and accuracy needs some;"
            f" choose a labeled data set or split for the {name} side of eval, or turn eval off"
        )
    if labels.max() >= classes:
        raise UserError(
            f"eval: classes={classes} but the {name} split has label {labels.max()}; "
            f"set the number of classes to {labels.max() + 1} or more"
        )
    if not has_label.all():
        log.info(
            "eval: %d of %d %s examples unlabeled, left out",
            (~has_label).sum(),
            len(has_label),
            name,
        )
        features = features[has_label]
        labels = labels[has_label]
    bad = len(features) - np.isfinite(features).all(axis=1).sum()
    if bad:
        raise UserError(
            f"eval: {bad} of {len(features)} {name} features are not finite: the encoder diverged; "
            "evaluate an earlier step, or train with a lower learning rate"
        )
    return features, labels


def one_device() -> Mesh:
    """Returns a mesh of one device of this process."""
    return Mesh(np.array(jax.local_devices()[:1]), ("data",), axis_types=(AxisType.Auto,))


def place(x: np.ndarray, mesh: Mesh, spec: P) -> Array:
    """Makes a global array of a host array that is whole on every process."""
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def unit(x: np.ndarray) -> np.ndarray:
    """Scales rows [B, D] to length 1; a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def pad(x: np.ndarray, size: int, value: float) -> np.ndarray:
    """Pads the first axis to `size` with `value`."""
    missing = [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, missing, constant_values=value)
