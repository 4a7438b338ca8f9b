"""Low-shot probe: the linear probe on few labels, over several draws of these labels.

It uses a number of labels of each class, or a fraction of them (1 % and 10 % are usual since CPC
v2, Henaff et al., arXiv 1905.09272), drawn class by class. A class keeps at least one label. The
draws have our own seeds, and differ from the lists that SimCLR published for ImageNet.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from jssl.config import ConfigError, schema
from jssl.evals import linear
from jssl.evals.knn import labeled


def probe(
    train: ArrayLike,
    train_labels: ArrayLike | None,
    test: ArrayLike,
    test_labels: ArrayLike | None,
    *,
    classes: int,
    per_class: int,
    share: float,
    seeds: int,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Returns top-1 on test of `linear.probe` on few labels of train.

    Args:
      train, train_labels, test, test_labels: see `linear.probe`.
      classes: number of classes.
      per_class: number of labels of each class; 0: use `share`.
      share: fraction of the labels of each class.
      seeds: number of draws, with the seeds 0 ... `seeds` - 1.
      mesh: the device mesh; None: one device.
      progress: progress(done, total) is called after each draw.
      **options: arguments of `linear.probe`: lrs, weight_decays, epochs, batch_size, val_fraction,
        standardize.

    Returns:
      top1 (mean over the draws), std (standard deviation, n - 1), per_class or share, seeds,
      n_train (number of labels used), n_test.

    Raises:
      UserError: a value is out of range; or as `linear.probe` does.
    """
    schema.check_key("eval.lowshot_per_class", per_class)
    schema.check_key("eval.label_fraction", share)
    schema.check_key("eval.lowshot_seeds", seeds)
    x, y = labeled(train, train_labels, classes=classes, name="train")
    tops = []
    result: dict[str, Any] = {}
    for seed in range(seeds):
        rows = sample_labels(y, per_class, share, seed)
        result = linear.probe(
            x[rows], y[rows], test, test_labels, classes=classes, seed=seed, mesh=mesh, **options
        )
        tops.append(result["top1"])
        if progress:
            progress(seed + 1, seeds)
    return {
        "top1": float(np.mean(tops)),
        "std": float(np.std(tops, ddof=1)) if seeds > 1 else 0.0,
        **({"per_class": per_class} if per_class else {"share": share}),
        "seeds": seeds,
        "n_train": result["n_train"],
        "n_test": result["n_test"],
    }


def sample_labels(labels: np.ndarray, per_class: int, share: float, seed: int) -> np.ndarray:
    """Draws rows of the labels of each class. A smaller draw of a seed is a subset of a larger one.

    Args:
      labels: int [N], all >= 0.
      per_class: number of labels of each class; 0: use `share`.
      share: fraction of the labels of each class, rounded, but at least 1 label.
      seed: seed of the draw.

    Returns:
      int [n], the rows, ascending.

    Raises:
      UserError: a class has fewer than `per_class` labels.
    """
    rows = []
    for label in np.unique(labels):
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        count = per_class or max(1, round(share * len(members)))
        if count > len(members):
            raise ConfigError(
                "config.eval.lowshot_per_class",
                per_class,
                f"class {label} has {len(members)} labeled examples for training",
                f"try {len(members)}",
            )
        rows.append(members[:count])
    return np.sort(np.concatenate(rows))
