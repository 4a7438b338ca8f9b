"""Advice on the sizes, the channels and the pixel values of a split of images."""

from collections.abc import Iterator
from typing import Any

from jssl.data.check.phrases import several
from jssl.data.splits import few

MANY = 0.05  # fraction of the images from which a finding deserves advice
DARK = 0.25  # of white: if no number exceeds it, white is probably another number
HEAVY = 4.0  # shorter side by data.max_side, from which decoding costs more than training
ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")  # Pillow's modes with an alpha channel


def of_sizes(report: dict[str, Any]) -> Iterator[str]:
    """Yields sentences about sizes; `report` is that of `image_report.describe`."""
    sizes = report["sizes"]
    intact = report["looked_at"] - report["unreadable"]["count"]
    crop = sizes["crop"]
    median = sizes["shorter_side"][1]
    if crop and sizes["max_side"] < crop <= median:
        yield (
            f"images are shrunk to {sizes['max_side']} pixels, and crops of them are enlarged to "
            f"{crop}; set --config.data.max_side={crop * 8 // 7}"
        )
    if crop and sizes["below_crop"] > MANY * intact:
        size = max(16, int(min(median, crop - 1)) // 16 * 16)  # a multiple of most patches
        yield (
            f"{sizes['below_crop']:,} of {several(intact, 'image')} smaller than the crops of "
            f"{crop} pixels, so they are enlarged; set --config.augment.size={size}, or leave them "
            "out"
        )
    if sizes["ends_cropped"] > MANY * intact:
        yield (
            f"{sizes['ends_cropped']:,} of {several(intact, 'image')} so long that both ends are "
            "cut off; set a larger --config.data.aspect to keep them whole"
        )
    if median >= HEAVY * sizes["max_side"]:
        yield (
            f"half of the images have {median:,} pixels or more on the shorter side, and "
            f"{sizes['max_side']} are used; `jssl data pack` decodes and shrinks them once, which "
            "makes every epoch faster"
        )


def of_channels(report: dict[str, Any]) -> Iterator[str]:
    """Yields sentences about gray images, alpha channels and files of several frames."""
    pixels = report["pixels"]
    intact = report["looked_at"] - report["unreadable"]["count"]
    alpha = sum(count for mode, count in pixels["modes"].items() if mode in ALPHA)
    if alpha:
        yield (
            f"{several(alpha, 'image')} with an alpha channel, which is dropped, so hidden colors "
            "show; flatten them onto a background if that matters"
        )
    if report["channels"] == 3 and pixels["gray"] == intact:
        yield (
            "all images are gray; --config.data.channels=1 needs a third of the memory (color "
            "jitter and grayscale do nothing then)"
        )
    if report["channels"] == 1 and pixels["modes"].get("RGB"):
        yield (
            f"{several(pixels['modes']['RGB'], 'image')} stored in color and read as gray; set "
            "--config.data.channels=3 to keep the colors"
        )
    if pixels["several_frames"]:
        yield (
            f"{several(pixels['several_frames'], 'file')} with several frames or pages, of which "
            "only the first is read; write each to a file of its own to use them all"
        )


def of_pixels(report: dict[str, Any]) -> Iterator[str]:
    """Yields sentences about orientation, the value of white, and blank images."""
    pixels = report["pixels"]
    exif = report["exif"]
    if exif["turned"] and not exif["applied"]:
        yield (
            f"{several(exif['turned'], 'image')} turned by EXIF, and read as stored; set "
            "--config.data.exif=on to turn them upright"
        )
    yield from _of_white(pixels)
    for kind in ("black", "constant"):
        blank = pixels[kind]
        if blank["count"]:
            yield (
                f"{several(blank['count'], f'{kind} image')} ({few(blank['first'], 3)}), from "
                "which nothing can be learned; remove them"
            )


def _of_white(pixels: dict[str, Any]) -> Iterator[str]:
    """Yields sentences about the largest pixel value and the value of white."""
    high = max(highest for _, highest in pixels["ranges"].values())
    white = pixels["white"]
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
            f"images of {few(list(pixels['ranges']))} are mixed, and one value is white in all of "
            f"them ({white:g}, for 8 bits at most 255); convert them to one depth, or check "
            "--config.data.max_value"
        )
