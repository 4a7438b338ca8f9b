"""The order of examples: which examples a step reads, as a function of (seed, step) alone.

If a run had to skip examples, the order also depends on the list of the skipped ranges.

Nothing here depends on workers, processes or checkpoints. A run that resumes at step i, on any
number of hosts, reads the same examples in step i as a run that never stopped.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.random import MT19937, RandomState, SeedSequence

from jssl.config import ConfigError

_SPLIT = re.compile(r"(?P<name>[^\[\]+]+)(\[(?P<start>\d{1,15}%?)?:(?P<stop>\d{1,15}%?)?\])?")
_SLICE_SEED = 1  # fixed for ever: "train[:90%]" names the same examples in every run


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order of `range(n)` in an epoch: int [n], read-only.

    `RandomState` over `MT19937` is NumPy's legacy stream, which its compatibility policy (NEP 19)
    freezes bit for bit; `Generator.permutation` may change with a release.
    """
    order = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
    RandomState(MT19937(SeedSequence([seed, epoch]))).shuffle(order)
    order.flags.writeable = False
    return order


def indices(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
    """Returns the examples of a step in their order in the global batch: int64 [batch_size].

    The epochs form an endless sequence, and each epoch is a permutation of `range(n)`. A step reads
    the positions from ``step * batch_size`` on. A batch may span several epochs, and `batch_size`
    may exceed `n`.

    Args:
      seed: seed of the permutations, at least 0.
      step: the step, at least 0.
      n: number of examples, at least 1.
      batch_size: number of examples of the global batch.
    """
    epochs, positions = np.divmod(step * batch_size + np.arange(batch_size, dtype=np.int64), n)
    first = int(epochs[0])
    last = int(epochs[-1])
    by_epoch = [permutation(seed, e, n)[positions[epochs == e]] for e in range(first, last + 1)]
    return np.concatenate(by_epoch).astype(np.int64)


def data_offset(passed: Iterable[Sequence[int]], step: int) -> int:
    """Returns the number of steps of data to skip at `step`.

    Args:
      passed: [[step, offset], ...], the skipped ranges of a run (`jssl.training.rollback`). From
        `step` on, the data order is shifted by `offset` steps.
      step: the step of the run.

    Returns:
      The largest offset in `passed` that starts at `step` or before; 0 if there is none.
    """
    return max((offset for start, offset in passed if start <= step), default=0)


def sequential(step: int, n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of an evaluation, which reads every example once, in order.

    Returns:
      The indices int64 [batch_size], and a mask bool [batch_size]. The last batch repeats example
      n - 1 to be full; the mask is False there.
    """
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    return np.minimum(positions, n - 1), positions < n


def split_name(split: str) -> str:
    """ "train" of "train[:90%]". Raises UserError if the text is not a split."""
    return _parse(split)["name"]


def split_rows(split: str, n: int) -> np.ndarray | None:
    """Returns the examples, of `n`, in a split such as "train[:90%]" or "train[100:]".

    The slice is cut from one fixed permutation and not from the stored order, which is often sorted
    by class. So "train[:90%]" and "train[90%:]" are disjoint, and together they are everything.

    Returns:
      None for all examples, else int64, ascending.

    Raises:
      UserError: the split is not valid, or holds no example.
    """
    start, stop = _range(split, n)
    if (start, stop) == (0, n):
        return None
    return np.sort(permutation(_SLICE_SEED, 0, n)[start:stop]).astype(np.int64)


def split_span(split: str, documents: int, units: int) -> tuple[int, int] | None:
    """Returns the range of units of a single document that a slice in percent holds.

    Args:
      split: the split, such as "train[:95%]".
      documents: number of documents in the data set.
      units: number of units (characters or tokens) of the only document.

    Returns:
      (start, stop). "train[:95%]" and "train[95%:]" are two parts in the order of the text. None if
      the documents are not cut: there are several or none, or the slice counts documents.

    Raises:
      UserError: the split is not valid, or holds no unit.
    """
    match = _parse(split)
    bounds = [bound for bound in (match["start"], match["stop"]) if bound]
    if documents != 1 or not bounds or not all(bound.endswith("%") for bound in bounds):
        return None
    return _range(split, units, "units of its only document")


def _range(split: str, n: int, what: str = "examples") -> tuple[int, int]:
    """Returns (start, stop) of a slice of `n` items; UserError if the slice is empty."""
    match = _parse(split)
    start = _bound(match["start"], n, 0)
    stop = _bound(match["stop"], n, n)
    if start < stop:
        return start, stop
    half = f" or {match['name']}[:50%]" if n > 1 else ""
    raise ConfigError(
        "config.data.split", split, f"it holds none of the {n} {what}", f"try {match['name']}{half}"
    )


def _parse(split: str) -> re.Match[str]:
    match = _SPLIT.fullmatch(split)
    if not match:
        raise ConfigError(
            "config.data.split",
            split,
            "it is no split name with an optional slice",
            "write train, train[:90%], train[90%:] or train[:1000]",
        )
    return match


def _bound(text: str | None, n: int, missing: int) -> int:
    if text is None:
        return missing
    return min(n, n * int(text[:-1]) // 100 if text.endswith("%") else int(text))
