"""Which examples a step sees: a function of (seed, step) alone, and so a law of the project. (Where
a run had to pass over some, of the list of these passes too.)

Nothing here knows of workers, processes or checkpoints. A run that resumes at step i, on any number
of hosts, sees in step i what it would have seen had it never stopped.
"""

import functools
import re

import numpy as np
from numpy.random import MT19937, RandomState, SeedSequence

from jssl.config import UserError

_SPLIT = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>\d{1,15}%?)?:(?P<stop>\d{1,15}%?)?\])?")
_SLICE_SEED = 1  # fixed for ever: "train[:90%]" must name the same examples in every run


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `range(n)` in an epoch: int [n], read-only.

    `RandomState` over `MT19937` is NumPy's legacy stream, which its compatibility policy (NEP 19)
    freezes bit for bit; `Generator.permutation` may change with a release.
    """
    order = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    RandomState(MT19937(SeedSequence([seed, epoch]))).shuffle(order)
    order.flags.writeable = False
    return order


def indices(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """The examples of a step in their order in the global batch: int64 [batch_size].

    These are positions ``step * batch_size`` and on in the endless row of epochs, each a
    permutation of `range(n)`. A batch may straddle epochs, and `batch_size` may exceed `n`.
    `seed`, `step` >= 0; `n` >= 1.
    """
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), n)
    first = int(epochs[0])
    last = int(epochs[-1])
    parts = [permutation(seed, e, n)[places[epochs == e]] for e in range(first, last + 1)]
    return np.concatenate(parts).astype(np.int64)


def data_offset(passed, step: int) -> int:
    """By how many steps the data leads a run at `step`: of `passed`, [[step, shift], ...] (see
    `jssl.training.rollback`), the largest shift that begins at it or before."""
    return max((shift for at, shift in passed if at <= step), default=0)


def sequential(step: int, n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every example once, in order, for evaluation: (int64 [batch_size], bool [batch_size]).

    The last batch is filled up by repeating example n - 1; the mask is False there.
    """
    places = step * batch_size + np.arange(batch_size, dtype=np.int64)
    return np.minimum(places, n - 1), places < n


def split_name(split: str) -> str:
    """ "train" of "train[:90%]". Raises UserError if the text is not a split."""
    return _parse(split)["name"]


def split_rows(split: str, n: int) -> np.ndarray | None:
    """Which of `n` examples a split such as "train[:90%]" or "train[100:]" holds.

    Returns None for all of them, else int64, ascending. The slice is cut from one fixed permutation
    and not from the stored order, which is often sorted by class; so "train[:90%]" and
    "train[90%:]" share nothing and together are everything. Raises UserError if nothing is left.
    """
    start, stop = _range(split, n)
    if (start, stop) == (0, n):
        return None
    return np.sort(permutation(_SLICE_SEED, 0, n)[start:stop]).astype(np.int64)


def split_span(split: str, documents: int, units: int) -> tuple[int, int] | None:
    """Which of the `units` (characters, tokens) of a single document a slice in percent holds.

    Returns (first, behind the last): "train[:95%]" and "train[95%:]" are two parts in the order of
    the text. None where documents are not cut, because there are several, or none, or the slice
    counts documents. Raises UserError if nothing is left.
    """
    found = _parse(split)
    bounds = [bound for bound in (found["start"], found["stop"]) if bound]
    if documents != 1 or not bounds or not all(bound.endswith("%") for bound in bounds):
        return None
    return _range(split, units, "units of its only document")


def _range(split, n, what="examples"):
    """(first, behind the last) of `n` things that a slice holds; UserError if it holds none."""
    found = _parse(split)
    start = _bound(found["start"], n, 0)
    stop = _bound(found["stop"], n, n)
    if start < stop:
        return start, stop
    half = f" or {found['name']}[:50%]" if n > 1 else ""
    raise UserError(
        f"data.split={split} is wrong because it holds none of the {n} {what}; "
        f"try {found['name']}{half}"
    )


def _parse(split):
    found = _SPLIT.fullmatch(split)
    if not found:
        raise UserError(
            f"data.split={split!r} is wrong because it is no split name with an optional slice; "
            "write train, train[:90%], train[90%:] or train[:1000]"
        )
    return found


def _bound(text, n, missing):
    if text is None:
        return missing
    return min(n, n * int(text[:-1]) // 100 if text.endswith("%") else int(text))
