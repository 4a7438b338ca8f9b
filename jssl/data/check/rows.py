"""The rows of the table that `jssl data check` prints: one report of a split as short texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from jssl.data.check.phrases import several

SHOWN = 6  # endings, modes and formats that a cell lists


def of_images(report: dict[str, Any]) -> dict[str, str]:
    """Returns {name of a row: text} of a report of `image_report.describe`."""
    damage = report["unreadable"]
    rows = {
        "examples": f"{report['examples']:,}",
        "looked at": f"{report['looked_at']:,}",
        **_files(report),
        "unreadable": f"{damage['count']:,} ({damage['allowed']:,} are allowed)",
        "labels": _labels(report["labels"]),
    }
    if "pixels" not in report:
        return rows
    sizes = report["sizes"]
    pixels = report["pixels"]
    exif = report["exif"]
    rows |= {name.replace("_", " "): _three(sizes[name]) for name in ("width", "height")}
    rows["shorter side"] = _three(sizes["shorter_side"])
    if sizes["crop"]:
        rows[f"smaller than crop {sizes['crop']}"] = f"{sizes['below_crop']:,}"
    rows[f"above max_side {sizes['max_side']}"] = f"{sizes['above_max_side']:,}"
    rows["ends cut off"] = f"{sizes['ends_cropped']:,}"
    if pixels["formats"]:
        rows["formats"] = _counts(pixels["formats"])
    rows["modes"] = _counts(pixels["modes"])
    rows["values"] = "; ".join(
        f"{low:g} to {high:g} in {pixels['depths'][kind]:,} of {kind}"
        for kind, (low, high) in pixels["ranges"].items()
    )
    rows["white"] = f"{pixels['white']:g}"
    rows["gray, black, constant"] = ", ".join(
        f"{number:,}"
        for number in (pixels["gray"], pixels["black"]["count"], pixels["constant"]["count"])
    )
    applied = "upright by data.exif" if exif["applied"] else "read as stored"
    rows["turned by EXIF"] = f"{exif['turned']:,}" + f" ({applied})" * bool(exif["turned"])
    for kind, found in report["duplicates"].items():
        rows[f"duplicates by {kind}"] = _extra(found)
    return rows


def of_text(report: dict[str, Any]) -> dict[str, str]:
    """Returns {name of a row: text} of a report of `texts.describe`."""
    names = ("smallest", "5 %", "median", "95 %", "largest")
    lengths = zip(names, report["length"], strict=True)
    rows = {
        "documents": f"{report['examples']:,}" + " (the first)" * (not report["complete"]),
        **_files(report),
        "bytes, all": f"{report['bytes']:,}",
        **{f"bytes, {name}": f"{length:,}" for name, length in lengths},
        "unreadable": f"{report['unreadable']['count']:,}",
        "empty": f"{report['empty']:,}",
    }
    if report["encodings"]:
        rows["encodings"] = _counts(report["encodings"])
    if report["lines"]["read"]:
        rows["lines without text"] = f"{report['lines']['odd']:,}"
    return rows | {
        "invalid byte sequences": f"{report['replaced']:,}",
        "duplicates": _extra(report["duplicates"]),
        "labels": _labels(report["labels"]),
    }


def _files(report: dict[str, Any]) -> dict[str, str]:
    listing = report.get("files")
    if listing is None:
        return {}
    skipped = [_counts(listing["skipped"])] if listing["skipped"] else []
    kinds = {
        "unreadable_folders": "locked folder",
        "special": "pipe or device",
        "runs": "folder with a run",
        "second_names": "second name",
    }
    skipped += [several(len(listing[key]), kinds[key]) for key in kinds if listing[key]]
    return {"files": _counts(listing["endings"]), "skipped": "; ".join(skipped) or "none"}


def _labels(labels: dict[str, Any]) -> str:
    if "classes" not in labels:
        return "none"
    counts = list(labels["classes"].values())
    each = f"{min(counts):,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
    unlabeled = f", {labels['unlabeled']:,} unlabeled" * bool(labels["unlabeled"])
    return f"{len(counts):,} classes from {labels['from']}, {each} each{unlabeled}"


def _counts(counts: Mapping[str, int]) -> str:
    parts = [f"{count:,} {name or 'without an ending'}" for name, count in counts.items()]
    rest = len(parts) - SHOWN
    return ", ".join(parts[:SHOWN]) + (f" and {rest} more kinds" if rest > 0 else "")


def _three(values: Sequence[float]) -> str:
    return "{:,} / {:,} / {:,}".format(*values)


def _extra(found: dict[str, Any]) -> str:
    groups = f" in {several(found['groups'], 'group')}"
    return f"{found['extra']:,}" + groups * bool(found["groups"])
