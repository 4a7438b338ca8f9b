"""Low-shot probe: the linear probe on few labels, over several draws of which.

So many labels of each class, or a share of them (1 % and 10 % are usual since CPC v2, Henaff et
al., arXiv 1905.09272), drawn class by class. A class keeps at least one label. Draws are of our own
seeds; the lists that SimCLR published for ImageNet are others.
"""

import numpy as np

from jssl.config import UserError, schema
from jssl.evals import linear
from jssl.evals.knn import labelled


def probe(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes: int,
    per_class: int,
    share: float,
    seeds: int,
    mesh=None,
    progress=None,
    **options,
) -> dict:
    """Top-1 on test of `linear.probe` on `per_class` labels of each class, or, where that is 0, on
    this `share` of them: mean and standard deviation (n - 1) over the draws 0 ... `seeds` - 1.

    Features and labels as there, and so `options`: lrs, weight_decays, epochs, batch_size,
    held_out, standardize. `progress(done, total)` is called after each draw.

    Returns top1, std, per_class or share, seeds, n_train (labels used), n_test.
    """
    for key, value in (("per_class", per_class), ("share", share), ("seeds", seeds)):
        schema.check_key(f"eval.lowshot_{key}", value)
    x, y = labelled(train, train_labels, classes=classes, name="train")
    tops = []
    for seed in range(seeds):
        rows = sample_labels(y, per_class, share, seed)
        found = linear.probe(
            x[rows], y[rows], test, test_labels, classes=classes, seed=seed, mesh=mesh, **options
        )
        tops.append(found["top1"])
        if progress:
            progress(seed + 1, seeds)
    return {
        "top1": float(np.mean(tops)),
        "std": float(np.std(tops, ddof=1)) if seeds > 1 else 0.0,
        **({"per_class": per_class} if per_class else {"share": share}),
        "seeds": seeds,
        "n_train": found["n_train"],
        "n_test": found["n_test"],
    }


def sample_labels(labels: np.ndarray, per_class: int, share: float, seed: int) -> np.ndarray:
    """Rows of labels int [N] (all known), ascending: of each class that is there `per_class`, or
    its `share`, rounded, but at least 1. A smaller draw of a seed is a part of a larger one."""
    rows = []
    for label in np.unique(labels):
        mine = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        count = per_class or max(1, round(share * len(mine)))
        if count > len(mine):
            raise UserError(
                f"eval.lowshot_per_class={per_class}, but class {label} has {len(mine)} labelled "
                f"train examples; try {len(mine)}"
            )
        rows.append(mine[:count])
    return np.sort(np.concatenate(rows))
