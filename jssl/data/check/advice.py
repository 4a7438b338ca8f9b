"""Plain sentences about what a report found, each with the key or the command that cures it."""

from collections.abc import Iterator
from typing import Any

from jssl.data.sources.folder import PHONES
from jssl.data.splits import few
from jssl.errors import install

# Endings of files that hold images or labels, and that a folder of images does not read.
IMAGES = (".avif", ".npy", ".npz", ".dcm", ".nii", ".exr", ".jp2", ".psd", ".svg", ".pdf", ".raw")
IMAGES += (".cr2", ".nef", ".arw", ".dng", ".mat", ".h5", ".hdf5", ".zip", ".tar", ".tfrecord")
LISTS = (".csv", ".tsv", ".json", ".xml", ".parquet")
MANY = 0.05  # fraction of the images from which a finding deserves advice
UNEQUAL = 10.0  # largest class by smallest class, from which accuracies mislead
DARK = 0.25  # of white: if no number exceeds it, white is probably another number
HEAVY = 4.0  # shorter side by data.max_side, from which decoding costs more than training


def of_images(split: str, report: dict[str, Any]) -> list[str]:
    """Returns the advice on a split of images.

    Args:
      split: the name of the split.
      report: what `image_report.describe` returned.
    """
    found = [*_of_files(report), *_of_damage(report), *_of_labels(report)]
    if "pixels" in report:
        found += [*_of_sizes(report), *_of_pixels(report), *_of_duplicates(report, "images")]
    return [f"{split}: {sentence}" for sentence in found]


def of_text(split: str, report: dict[str, Any]) -> list[str]:
    """Returns the advice on a split of text, of which `texts.describe` returned `report`."""
    found = [*_of_files(report), *_of_documents(report), *_of_labels(report, needed=False)]
    found += _of_duplicates(report, "documents")
    return [f"{split}: {sentence}" for sentence in found]


def of_pair(one: str, other: str, pair: dict[str, Any], what: str) -> list[str]:
    """Returns the advice on two splits.

    Args:
      one: the name of the split for training.
      other: the name of a split for evaluation.
      pair: what two splits share, see `jssl.data.check.report`.
      what: "images" or "documents".
    """
    found = []
    shared = pair["pixels"] if what == "images" else pair["documents"]
    if pair["same_files"]:
        found.append(
            f"{pair['same_files']:,} examples of {other} are examples of {one} itself; use slices "
            "that are disjoint: --config.data.split='train[:90%]' and "
            "--config.eval.split='train[90%:]'"
        )
    elif shared["count"]:
        first = shared["first"][0]
        found.append(
            f"{shared['count']:,} {what} of {other} are also in {one} ({first[1]} is "
            f"{first[0]}), so accuracies on {other} are too high; remove them from one of the two"
        )
    for split, names in pair["only_in"].items():
        if names:
            effect = "its examples of them count as unlabeled"
            if split == one:
                effect = f"no example of {other} tests them"
            found.append(
                f"{len(names):,} classes are only in {split} ({few(names)}): {effect}; if they "
                "have other names there, make the names equal"
            )
    return found


def _of_files(report: dict[str, Any]) -> Iterator[str]:
    listing = report.get("files")
    if listing is None:
        return
    skipped = listing["skipped"]
    phones = sum(skipped.get(ending, 0) for ending in PHONES)
    if phones:
        yield f"{phones:,} .heic images are not read; to read them: {install('heic')}"
    others = {ending: n for ending, n in skipped.items() if ending in IMAGES}
    if others:
        listed = ", ".join(f"{n:,} {ending}" for ending, n in others.items())
        yield f"{listed} are not read; unpack them, or convert them to .png"
    lists = [ending for ending in skipped if ending in LISTS]
    if lists and report["labels"]["from"] == "none":
        yield (
            f"{few(lists)} files are not read: labels come from folders only; move the images of "
            "each class into a folder of its own"
        )
    folders = listing["unreadable_folders"]
    if folders:
        yield (
            f"{len(folders):,} folders cannot be listed ({few(list(folders))}), so their files are "
            "missing; change their permissions"
        )


def _of_damage(report: dict[str, Any]) -> Iterator[str]:
    damage = report["unreadable"]
    if not damage["count"]:
        return
    first = damage["first"][0]
    line = (
        f"{damage['count']:,} of {report['looked_at']:,} images cannot be read ({first['name']}: "
        f"{first['reason']})"
    )
    if damage["count"] > damage["allowed"]:
        share = min(1.0, round(damage["count"] / report["looked_at"] + 0.01, 2))
        yield (
            f"{line}: a run would stop; repair or remove them, or set "
            f"--config.data.max_corrupt_fraction={share:g}"
        )
    else:
        yield f"{line}: a run replaces them by others; repair or remove them"


def _of_labels(report: dict[str, Any], needed: bool = True) -> Iterator[str]:
    labels = report["labels"]
    listing = report.get("files", {})
    if labels["from"] == "none":
        if listing.get("beside_folders"):
            yield (
                f"there are no labels, because {listing['beside_folders']:,} files lie beside the "
                "folders; if the folders are classes, move these files into one"
            )
        elif labels.get("single_folder"):
            yield (
                f"there are no labels, because all images lie in {labels['single_folder']}; that "
                "is right for pretraining, but kNN and probes need at least two class folders"
            )
        elif needed:
            yield (
                "there are no labels; that is right for pretraining, but kNN and probes need a "
                "folder for each class"
            )
        return
    empty = [name for name, count in labels["classes"].items() if not count]
    if labels["imbalance"] >= UNEQUAL:
        yield (
            f"the largest class has {labels['imbalance']:,.0f} times as many examples as the "
            "smallest; an accuracy then mostly measures the large classes, so balance the split "
            "of --config.eval.split"
        )
    if empty and "files" in report:
        yield f"{len(empty):,} classes have no examples ({few(empty)}); look into their folders"
    for names in labels["alike"]:
        yield (
            f"the classes {few(names)} differ only in case or in spaces; if they mean the same, "
            "merge their folders"
        )


def _of_sizes(report: dict[str, Any]) -> Iterator[str]:
    sizes = report["sizes"]
    intact = report["looked_at"] - report["unreadable"]["count"]
    crop = sizes["crop"]
    if crop and sizes["max_side"] < crop <= sizes["shorter_side"][1]:
        yield (
            f"images are shrunk to {sizes['max_side']} pixels and crops of them enlarged to {crop} "
            f"again; set --config.data.max_side={crop * 8 // 7}"
        )
    if crop and sizes["below_crop"] > MANY * intact:
        yield (
            f"{sizes['below_crop']:,} of {intact:,} images are smaller than the crops of {crop} "
            "pixels, so they are enlarged; set a smaller --config.augment.size"
        )
    if sizes["ends_cropped"] > MANY * intact:
        yield (
            f"both ends of {sizes['ends_cropped']:,} of {intact:,} images are cut off, because "
            "they are long; set a larger --config.data.aspect to keep them"
        )
    if sizes["shorter_side"][1] >= HEAVY * sizes["max_side"]:
        yield (
            f"half of the images have {sizes['shorter_side'][1]:,} pixels or more on the shorter "
            f"side, and {sizes['max_side']} are used; `jssl data pack` decodes and shrinks them "
            "once, which makes every later epoch faster"
        )


def _of_pixels(report: dict[str, Any]) -> Iterator[str]:
    pixels = report["pixels"]
    exif = report["exif"]
    intact = report["looked_at"] - report["unreadable"]["count"]
    if exif["turned"] and not exif["applied"]:
        yield (
            f"{exif['turned']:,} images are stored turned (EXIF) and are read as stored; "
            "set --config.data.exif=on to turn them upright"
        )
    high = max(highest for _, highest in pixels["ranges"].values())
    white = pixels["white"] or (255 if list(pixels["ranges"]) == ["8-bit"] else 65535)
    if 0 < high < DARK * white:
        yield (
            f"the largest pixel value is {high:g}, and white is {white:g}, so all images are dark; "
            f"set --config.data.max_value={high:g}, or the value that is white"
        )
    elif high > white:
        yield (
            f"the largest pixel value is {high:g}, and values above white ({white:g}) are clipped; "
            f"set --config.data.max_value={high:g}"
        )
    if len(pixels["ranges"]) > 1:
        yield (
            f"images of {few(list(pixels['ranges']))} are mixed, and all are scaled by one white "
            "value; convert them to one depth, or check --config.data.max_value"
        )
    for kind in ("black", "constant"):
        blank = pixels[kind]
        if blank["count"]:
            yield (
                f"{blank['count']:,} images are {kind} ({blank['first'][0]}): nothing can be "
                "learned from them; remove them"
            )
    yield from _of_channels(pixels, report["channels"], intact)


def _of_channels(pixels: dict[str, Any], channels: int, intact: int) -> Iterator[str]:
    alpha = sum(n for mode, n in pixels["modes"].items() if mode in ("RGBA", "LA", "PA", "La"))
    if alpha:
        yield (
            f"{alpha:,} images have an alpha channel, which is dropped, so hidden colors show; "
            "flatten them onto a background if that matters"
        )
    if channels == 3 and pixels["gray"] == intact:
        yield (
            "all images are gray; --config.data.channels=1 needs a third of the memory "
            "(color jitter and grayscale do nothing then)"
        )
    if pixels["several_frames"]:
        yield (
            f"{pixels['several_frames']:,} files hold several frames or pages, of which only the "
            "first is read; write each to a file of its own to use them all"
        )


def _of_duplicates(report: dict[str, Any], what: str) -> Iterator[str]:
    found = report["duplicates"]
    found = found["pixels"] if what == "images" else found  # equal bytes have equal pixels
    if not found["extra"]:
        return
    first = found["first"][0]
    yield (
        f"{found['extra']:,} {what} repeat another ({first[1]} is {first[0]}); a random slice "
        "such as train[90%:] then shares examples with the rest; remove them"
    )
    if found["other_labels"]:
        yield f"{found['other_labels']:,} {what} occur with several labels; correct their labels"


def _of_documents(report: dict[str, Any]) -> Iterator[str]:
    damage = report["unreadable"]
    if damage["count"]:
        reason = f" ({damage['first'][0]['reason']})" if damage["first"] else ""
        yield f"{damage['count']:,} files or records cannot be read, and a run stops{reason}"
    odd = report["lines"]["first"]
    if odd:
        yield (
            f"{report['lines']['odd']:,} of {report['lines']['read']:,} lines are no documents "
            f"({odd['name']}: {odd['reason']}); {odd['cure']}"
        )
    if report["replaced"]:
        listed = few(list(report["encodings"]) or ["utf-8"])
        yield (
            f"{report['replaced']:,} byte sequences are not valid ({listed}) and are replaced; "
            "set --config.data.encoding to the encoding of the files"
        )
    if report["empty"]:
        yield f"{report['empty']:,} documents are empty, and are left out"
