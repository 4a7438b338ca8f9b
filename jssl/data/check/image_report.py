"""The report of one split of images."""

import collections
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jssl.data.check import classes, duplicates, listing
from jssl.data.check.image_facts import Facts
from jssl.data.loader import allowed_share
from jssl.data.source import Source
from jssl.data.sources.folder import ImageFolder, extensions

SHOWN = 20  # files that a list in the report names


def describe(source: Source, facts: Sequence[Facts], section: Any, crop: int) -> dict[str, Any]:
    """Returns the report of a split, as JSON values.

    Args:
      source: the source of the split.
      facts: what `image_facts.gather` found.
      section: the config section `data`.
      crop: side of the crops that training takes, in pixels; 0 if there are none.
    """
    name = namer(source)
    intact = [fact for fact in facts if not fact.problem]
    damaged = [fact for fact in facts if fact.problem]
    is_folder = isinstance(source, ImageFolder)
    report: dict[str, Any] = {
        "name": source.name,
        "examples": len(source),
        "looked_at": len(facts),
    }
    if is_folder:
        report["files"] = listing.describe(source.name, extensions())
    report["unreadable"] = {
        "count": len(damaged),
        "allowed": int(allowed_share(section.max_corrupt_fraction, len(source)) * len(facts)),
        "first": [{"name": name(fact.index), "reason": fact.problem} for fact in damaged[:SHOWN]],
    }
    report["labels"] = _labels(source, facts)
    if not intact:
        return report
    report["sizes"] = _sizes(intact, section, crop, source.fields["image"].shape)
    report["pixels"] = _pixels(intact, source, name)
    report["channels"] = section.channels
    turned = [fact for fact in intact if fact.header.turn != 1]
    applied = bool(getattr(getattr(source, "pixels", None), "exif", False))
    report["exif"] = {"turned": len(turned), "applied": applied, **_first(turned, name)}
    labels = [fact.label for fact in intact]

    def name_of(position: int) -> str:
        return name(intact[position].index)

    contents = [fact.content for fact in intact]
    pixels = [fact.pixels for fact in intact]
    report["duplicates"] = {
        kind: duplicates.within(hashes, labels, name_of)
        for kind, hashes in (("bytes", contents), ("pixels", pixels))
        if any(hashes)  # a source of arrays has no encoded bytes
    }
    return report


def between(
    one: tuple[Source, Sequence[Facts]], other: tuple[Source, Sequence[Facts]]
) -> dict[str, Any]:
    """Returns what two splits share.

    Returns:
      {"same_files": number of files that both read, "bytes", "pixels": the examples of `other`
      whose content is in `one` (`duplicates.between`)}.
    """
    sides = [(namer(source), [f for f in facts if not f.problem]) for source, facts in (one, other)]
    (name_one, facts_one), (name_other, facts_other) = sides
    paths = [
        {source.describe(fact.index) for fact in facts if isinstance(source, ImageFolder)}
        for source, facts in (one, other)
    ]
    return {"same_files": len(paths[0] & paths[1])} | {
        key: duplicates.between(
            [getattr(fact, attribute) for fact in facts_one],
            [getattr(fact, attribute) for fact in facts_other],
            lambda at: name_one(facts_one[at].index),
            lambda at: name_other(facts_other[at].index),
        )
        for key, attribute in (("bytes", "content"), ("pixels", "pixels"))
    }


def namer(source: Source) -> Callable[[int], str]:
    """Returns name(index): the path of an example below the folder, or the record."""
    prefix = os.path.join(source.name, "")
    return lambda index: source.describe(index).removeprefix(prefix)


def three(values: Sequence[float] | np.ndarray) -> list[float]:
    """Returns [minimum, median, maximum], as integers if they are whole."""
    return [
        int(value) if float(value).is_integer() else round(float(value), 4)
        for value in (np.min(values), np.median(values), np.max(values))
    ]


def _first(facts: Sequence[Facts], name: Callable[[int], str]) -> dict[str, Any]:
    return {"first": [name(fact.index) for fact in facts[:SHOWN]]}


def _labels(source: Source, facts: Sequence[Facts]) -> dict[str, Any]:
    if isinstance(source, ImageFolder):
        labels = [] if source.labels is None else source.labels.tolist()  # of all files
        report = classes.counted(labels, source.classes, "folder names")
        return report | ({"single_folder": source.single_class} if source.single_class else {})
    return classes.counted([fact.label for fact in facts], source.classes, "the data set")


def _sizes(
    facts: Sequence[Facts], section: Any, crop: int, canvas: Sequence[int]
) -> dict[str, Any]:
    sizes = np.array([(fact.header.height, fact.header.width) for fact in facts])
    shorter = sizes.min(axis=1)
    longer = sizes.max(axis=1)
    scale = np.minimum(1, canvas[0] / shorter)
    return {
        "height": three(sizes[:, 0]),
        "width": three(sizes[:, 1]),
        "shorter_side": three(shorter),
        "crop": crop,
        "below_crop": int((shorter < crop).sum()),
        "max_side": section.max_side,
        "above_max_side": int((shorter > section.max_side).sum()),
        "ends_cropped": int((longer * scale >= canvas[1] + 1).sum()),
    }


def _pixels(facts: Sequence[Facts], source: Source, name: Callable[[int], str]) -> dict[str, Any]:
    counts = {
        key: dict(collections.Counter(values).most_common())
        for key, values in (
            ("formats", [fact.header.format for fact in facts if fact.header.format]),
            ("modes", [fact.header.mode for fact in facts]),
            ("depths", [fact.kind for fact in facts]),
        )
    }
    by_kind = {
        kind: [
            min(f.low for f in facts if f.kind == kind),
            max(f.high for f in facts if f.kind == kind),
        ]
        for kind in counts["depths"]
    }
    dtype = source.fields["image"].dtype
    blank = {kind: [fact for fact in facts if fact.blank == kind] for kind in ("black", "constant")}
    return counts | {
        "ranges": by_kind,
        "white": getattr(source, "max_value", 0.0) or np.iinfo(dtype).max,
        "gray": sum(fact.gray for fact in facts),
        "several_frames": sum(fact.header.frames for fact in facts),
        **{kind: {"count": len(some), **_first(some, name)} for kind, some in blank.items()},
    }
