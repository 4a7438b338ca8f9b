"""The labels of a split: where they come from, how many there are of each, and what is unusual."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jssl.data.splits import nfc


def counted(labels: Iterable[int], classes: Sequence[str] | None, origin: str) -> dict[str, Any]:
    """Counts the examples of each class.

    Args:
      labels: class numbers; -1 means unlabeled.
      classes: class names by number, or None if there are no labels.
      origin: where labels come from, such as "folder names".

    Returns:
      {"from": `origin`, or "none"}; and with labels {"classes": {name: count}, "unlabeled": count,
      "imbalance": largest count divided by the smallest that is not zero, "alike": groups of names
      that differ in case or in white space only}.
    """
    if classes is None:
        return {"from": "none"}
    numbers = np.fromiter(labels, np.int64)
    counts = np.bincount(numbers[numbers >= 0], minlength=len(classes)).tolist()
    present = [count for count in counts if count]
    by_plain = defaultdict(list)
    for name in classes:
        by_plain["".join(nfc(name).casefold().split())].append(name)
    return {
        "from": origin,
        "classes": dict(zip(classes, counts, strict=True)),
        "unlabeled": int((numbers < 0).sum()),
        "imbalance": max(present) / min(present) if present else 1.0,
        "alike": [names for names in by_plain.values() if len(names) > 1],
    }


def only_in(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns the names of the classes that have examples in `one`, and none in `other`."""
    if "classes" not in one or "classes" not in other:
        return []
    known = {nfc(name) for name, count in other["classes"].items() if count}
    return [name for name, count in one["classes"].items() if count and nfc(name) not in known]
