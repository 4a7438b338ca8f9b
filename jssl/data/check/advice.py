"""Plain sentences about what a report found, each with the key or the command that cures it."""

from collections.abc import Iterator
from typing import Any

from jssl.data.check import image_advice
from jssl.data.check.phrases import several
from jssl.data.sources.folder import PHONES
from jssl.data.splits import few
from jssl.errors import install

# Endings of files that may hold images or labels, and that a folder of images does not read.
IMAGES = (".avif", ".npy", ".npz", ".dcm", ".nii", ".exr", ".jp2", ".psd", ".svg", ".pdf", ".raw")
IMAGES += (".cr2", ".nef", ".arw", ".dng", ".mat", ".h5", ".hdf5", ".zip", ".tar", ".tfrecord")
LISTS = (".csv", ".tsv", ".json", ".xml", ".parquet")
UNEQUAL = 10.0  # largest class by smallest class, from which accuracies mislead


def of_images(split: str, report: dict[str, Any], training: bool) -> list[str]:
    """Returns the advice on a split of images.

    Args:
      split: the name of the split.
      report: what `image_report.describe` returned.
      training: whether it is the split for training, for which sizes and channels are chosen.
    """
    found = [*_of_files(report), *_of_damage(report), *_of_labels(report, needed=training)]
    if "pixels" in report:
        if training:
            found += [*image_advice.of_sizes(report), *image_advice.of_channels(report)]
        found += [*image_advice.of_pixels(report)]
        found += _of_duplicates(report["duplicates"]["pixels"], "image")
    if report["looked_at"] < report["examples"]:
        found.append(
            f"{report['looked_at']:,} of {report['examples']:,} images were looked at, so there "
            f"may be more findings; --examples={report['examples']} looks at all"
        )
    return [f"{split}: {sentence}" for sentence in found]


def of_text(split: str, report: dict[str, Any], training: bool) -> list[str]:
    """Returns the advice on a split of text; `report` is that of `texts.describe`."""
    found = [*_of_files(report), *_of_documents(report), *_of_labels(report, needed=False)]
    found += _of_duplicates(report["duplicates"], "document")
    if not report["complete"]:
        found.append(
            f"only the first {report['examples']:,} documents were read, so there may be more "
            "findings; a larger --examples reads more"
        )
    return [f"{split}: {sentence}" for sentence in found]


def of_pair(one: str, other: str, pair: dict[str, Any], what: str) -> list[str]:
    """Returns the advice on two splits.

    Args:
      one: the name of the split for training.
      other: the name of a split for evaluation.
      pair: what two splits share, see `jssl.data.check.report`.
      what: "image" or "document".
    """
    found = []
    shared = pair["pixels"] if what == "image" else pair["documents"]
    if pair["same_files"]:
        found.append(
            f"{one} and {other} both read {several(pair['same_files'], 'file')}; use slices that "
            "are disjoint: --config.data.split='train[:90%]' and --config.eval.split='train[90%:]'"
        )
    elif shared["count"]:
        first = shared["first"][0]
        found.append(
            f"{several(shared['count'], what)} of {other} in {one} too ({first[1]} is {first[0]}), "
            f"so accuracies on {other} are too high; remove them from one of the two"
        )
    for split, names in pair["only_in"].items():
        if names:
            effect = "its examples of them count as unlabeled"
            if split == one:
                effect = f"no example of {other} tests them"
            found.append(
                f"{several(len(names), 'class')} only in {split} ({few(names)}): {effect}; if they "
                "have other names in the other split, make the names equal"
            )
    return found


def _of_files(report: dict[str, Any]) -> Iterator[str]:
    listing = report.get("files")
    if listing is None:
        return
    skipped = listing["skipped"]
    phones = sum(skipped.get(ending, 0) for ending in PHONES)
    if phones:
        yield f"{several(phones, '.heic image')} skipped; to read them: {install('heic')}"
    others = {ending: count for ending, count in skipped.items() if ending in IMAGES}
    if others:
        listed = ", ".join(several(count, f"{ending} file") for ending, count in others.items())
        yield f"{listed} skipped; unpack them, or convert them to .png"
    lists = [ending for ending in skipped if ending in LISTS]
    if lists and report["labels"]["from"] == "none":
        yield (
            f"{few(lists)} files are skipped, because labels come from folders only; to have "
            "labels, move the images of each class into a folder of its own"
        )
    folders = listing["unreadable_folders"]
    if folders:
        yield (
            f"{several(len(folders), 'folder')} without permission ({few(list(folders))}), so "
            "files are missing; change the permissions"
        )


def _of_damage(report: dict[str, Any]) -> Iterator[str]:
    damage = report["unreadable"]
    if not damage["count"]:
        return
    first = damage["first"][0]
    line = (
        f"{damage['count']:,} of {several(report['looked_at'], 'image')} unreadable "
        f"({first['name']}: {first['reason']})"
    )
    if damage["count"] > damage["allowed"]:
        share = min(1.0, round(damage["count"] / report["looked_at"] + 0.01, 2))
        yield (
            f"{line}: a run stops; repair or remove them, or set "
            f"--config.data.max_corrupt_fraction={share:g}"
        )
    else:
        yield f"{line}: a run reads others instead; repair or remove them"


def _of_labels(report: dict[str, Any], needed: bool) -> Iterator[str]:
    labels = report["labels"]
    if labels["from"] == "none":
        if needed:
            yield _without_labels(labels, report.get("files", {}))
        return
    if labels["imbalance"] >= UNEQUAL:
        yield (
            f"the largest class has {labels['imbalance']:,.0f} times as many examples as the "
            "smallest, so an accuracy mostly measures the large classes; balance the split of "
            "--config.eval.split"
        )
    empty = [name for name, count in labels["classes"].items() if not count]
    if empty and needed and "files" in report:
        yield f"{several(len(empty), 'class')} without examples ({few(empty)}); look into them"
    for names in labels["alike"]:
        yield (
            f"the classes {few(names)} differ only in case or in spaces; if they mean the same, "
            "merge their folders"
        )


def _without_labels(labels: dict[str, Any], listing: dict[str, Any]) -> str:
    why = "there are no labels"
    cure = "that is right for pretraining, but kNN and probes need a folder for each class"
    if listing.get("beside_folders"):
        beside = several(listing["beside_folders"], "file")
        why += f", because not all images lie in folders ({beside} beside them)"
        cure = "if the folders are classes, move the other images into one"
    elif labels.get("single_folder"):
        why += f", because all images lie in the folder {labels['single_folder']}"
    return f"{why}; {cure}"


def _of_duplicates(found: dict[str, Any], what: str) -> Iterator[str]:
    if not found["extra"]:
        return
    first = found["first"][0]
    yield (
        f"{several(found['extra'], f'repeated {what}')} ({first[1]} is {first[0]}): slices such as "
        "train[:90%] and train[90%:] may share them, and an accuracy counts them twice; remove them"
    )
    if found["other_labels"]:
        repeated = several(found["other_labels"], f"repeated {what}")
        yield f"{repeated} with several labels; correct them"


def _of_documents(report: dict[str, Any]) -> Iterator[str]:
    damage = report["unreadable"]
    if damage["count"]:
        reason = "".join(f": {one['name']} {one['reason']}" for one in damage["first"][:1])
        yield f"{several(damage['count'], 'unreadable text')}{reason}"
    odd = report["lines"]["first"]
    if odd:
        yield (
            f"{report['lines']['odd']:,} of {several(report['lines']['read'], 'line')} without a "
            f"document ({odd['name']}: {odd['reason']}); {odd['cure']}"
        )
    if report["replaced"]:
        encodings = few(list(report["encodings"]) or ["utf-8"])
        yield (
            f"{several(report['replaced'], 'byte sequence')} invalid in {encodings}, and replaced; "
            "set --config.data.encoding to the encoding of the files"
        )
    if report["empty"]:
        yield f"{several(report['empty'], 'empty document')}, which a run leaves out"
