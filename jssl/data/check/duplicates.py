"""Equal examples, in one split and between two, found by hashes of their content."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

SHOWN = 5  # groups that a report lists


def groups(hashes: Sequence[bytes]) -> list[list[int]]:
    """Returns the positions of equal hashes, for each hash that occurs several times.

    An empty hash is equal to none.
    """
    by_hash: dict[bytes, list[int]] = defaultdict(list)
    for position, value in enumerate(hashes):
        if value:
            by_hash[value].append(position)
    return [positions for positions in by_hash.values() if len(positions) > 1]


def within(
    hashes: Sequence[bytes], labels: Sequence[int], name: Callable[[int], str]
) -> dict[str, Any]:
    """Describes the duplicates of one split.

    Args:
      hashes: the hash of each example.
      labels: the label of each example; -1 for none.
      name: name(position) names an example.

    Returns:
      {"groups": number of contents that occur several times, "extra": number of examples that
      repeat an earlier one, "other_labels": number of groups with several labels, "first": names of
      the first groups}.
    """
    found = groups(hashes)
    several = [len({labels[at] for at in group} - {-1}) > 1 for group in found]
    return {
        "groups": len(found),
        "extra": sum(len(group) - 1 for group in found),
        "other_labels": sum(several),
        "first": [[name(at) for at in group[:SHOWN]] for group in found[:SHOWN]],
    }


def between(
    one: Sequence[bytes],
    other: Sequence[bytes],
    name_one: Callable[[int], str],
    name_other: Callable[[int], str],
) -> dict[str, Any]:
    """Describes the examples of `other` whose content is also in `one`.

    Returns:
      {"count": number of such examples of `other`, "first": [[name in one, name in other], ...]}.
    """
    known = {value: position for position, value in reversed(list(enumerate(one))) if value}
    found = [position for position, value in enumerate(other) if value in known]
    first = [[name_one(known[other[at]]), name_other(at)] for at in found[:SHOWN]]
    return {"count": len(found), "first": first}
