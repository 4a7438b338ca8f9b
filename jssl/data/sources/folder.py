"""Image files in a folder with any nesting; labels are optional."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import features

from jssl import errors
from jssl.config import ConfigError, UserError
from jssl.data import canvas as canvases
from jssl.data import depth, files, fingerprint
from jssl.data.decode import Example, Pixels, Unreadable, assemble, look
from jssl.data.sampling import split_name, split_rows
from jssl.data.source import Batch, image_fields
from jssl.data.splits import few, find_split, nfc, split_folders, split_kind
from jssl.data.walk import Found, walk
from jssl.errors import short
from jssl.parallel import preemption

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import Modality

log = logging.getLogger("jssl")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
PHONES = (".heic", ".heif")  # pillow-heif, the extra "heic", reads them
BYTES = 512 * 2**20  # limit of one file: more than 89 megapixels need in any format
PAUSES = (0.1, 0.5, 2.0)  # seconds before a file is read again after a temporary error


def extensions() -> tuple[str, ...]:
    """Returns the endings of the images that this machine can read, in lower case."""
    avif = (".avif",) if features.check("avif") else ()
    phones = PHONES if importlib.util.find_spec("pillow_heif") else ()
    return EXTENSIONS + avif + phones


class ImageFolder:
    """A source of image files; see `open_folder`.

    Attributes:
      single_class: the folder that holds all images, if there is only one. It is not a label in a
        training set. It is one in a test set, if the training set has several classes
        (`jssl.data.labels`).
      labels: int32 [N], or None.
      max_value: the pixel value that is white; 0 for images of 8 bits (`jssl.data.depth`).
    """

    modality: Modality = "image"

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        pixels: Pixels,
        labels: np.ndarray | None,
        classes: Sequence[str] | None,
        single_class: str | None = None,
    ):
        """Describes the source.

        Args:
          root: the folder.
          files: the paths of the images relative to `root`, in order.
          pixels: decodes an image.
          labels: int32 [N], or None.
          classes: class names by number, or None.
          single_class: see the class.
        """
        self.name = root
        self._fingerprint: str | None = None
        self.pixels = pixels
        self.classes = classes
        self.single_class = single_class
        self.max_value = pixels.white
        self.labels = labels
        # One block of bytes instead of millions of str: it is small, and quick to send to a worker.
        names = [os.fsencode(file) for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def describe(self, index: int) -> str:
        """Returns the path of an example."""
        return os.path.join(self.name, os.fsdecode(self._file(index)))

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices`; see `decode.assemble` for keys and shapes."""
        return assemble(
            np.asarray(indices),
            self._load,
            len(self),
            self.pixels,
            self.classes is not None,
            f"--config.data.path={short(self.name)}",
        )

    def encoded(self, indices: np.ndarray) -> Iterator[tuple[bytes | Unreadable, int]]:
        """Yields (content of the file, label) of examples; the label is -1 if there are none.

        If a file cannot be read, the error stands in the place of its content.
        """
        for index in indices.tolist():
            label = -1 if self.labels is None else int(self.labels[index])
            try:
                yield read_patiently(self.describe(index)), label
            except Unreadable as error:
                yield error, label

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        return image_fields(self.pixels.canvas, self.pixels.dtype, self.classes is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of the names of the files, relative to the folder, and of their sizes."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        """Computes `fingerprint`."""
        return fingerprint.of_files(self._names, self._ends, self.describe)

    def _file(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        return self._names[start : self._ends[index]]

    def _load(self, index: int) -> Example:
        data = read_patiently(self.describe(index))
        image, size = self.pixels(data)
        return image, size, -1 if self.labels is None else self.labels[index]


def open_folder(
    path: str,
    split: str,
    canvas: int,
    channels: int,
    *,
    aspect: float = canvases.ASPECT,
    exif: bool = True,
    max_value: float = 0.0,
) -> ImageFolder:
    """Opens all images below a folder, in the sorted order of their paths.

    If a folder in `path` is the split (`splits.find_split`: `Train/` and `val/` too), it is the
    root. Else the split must be "train", and everything is read; but not if `path` has folders of
    other splits. The labels are the first-level directories, sorted, in Unicode's NFC, if there are
    at least two and every image is below one (torchvision's ImageFolder); else there are none.
    `walk` decides which files are read.

    Args:
      path: the folder.
      split: the split; slices as in `split_rows`.
      canvas: the shorter side that an image keeps, in pixels (``data.max_side``).
      channels: 1 or 3.
      aspect: see `jssl.data.load`.
      exif: whether EXIF orientation is applied.
      max_value: see `jssl.data.load`.

    Raises:
      UserError: the folder is missing or has no images, or the split is unknown.
    """
    root = _root(os.path.expanduser(path), split)
    listing = walk(root, extensions())
    listing.announce("images")
    _advise(listing)
    if not listing.files:
        raise ConfigError(
            "config.data.path",
            root,
            f"no image lies below it ({listing.describe('images')})",
            f"give a folder with files that end in {' '.join(extensions())}",
        )
    _check_mixed(root, listing.files)
    names = listing.files
    labels, classes = _labels(names, [name for name in listing.unreadable if os.sep not in name])
    single = None
    if classes and len(classes) == 1:
        (single,) = classes
        labels = None
        classes = None
    if classes:
        listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        log.info("labels: %d classes from folder names (%s)", len(classes), listed)
    rows = split_rows(split, len(names))
    if rows is not None:
        names = [names[row] for row in rows]
        labels = None if labels is None else labels[rows]
    white = max_value or _white(root, names)
    height, width = canvases.canvas_of(canvas, aspect)
    pixels = Pixels(canvas, (height, width, channels), exif, 0.0 if white == 255 else white)
    return ImageFolder(root, names, pixels, labels, classes, single)


def _white(root: str, names: Sequence[str]) -> float:
    """Returns the white value of the images of more than 8 bits; 0 if there are none."""
    names = [name for name in names if name.lower().endswith(depth.ENDINGS)]
    count = min(len(names), depth.SAMPLE)
    rows = np.linspace(0, len(names) - 1, count).astype(np.int64).tolist()
    paths = [os.path.join(root, names[row]) for row in rows]
    with preemption.pool(16) as pool:
        looks = [pool.submit(_look, path) for path in paths]
        return depth.find_white(
            [preemption.result(future) for future in looks], f"--config.data.path={short(root)}"
        )


def _look(path: str) -> depth.Levels | None:
    try:
        return look(read_patiently(path))
    except Unreadable:  # the feed reads it later, and counts it then
        return None


def read_patiently(path: str) -> bytes:
    """Returns the bytes of one example.

    Raises:
      Unreadable: the file does not exist, is not regular or too large, or the user may not read it.
      files.Unreachable: the system could not read it in several tries. That is not damage.
    """
    for pause in (*PAUSES, None):
        try:
            return files.read_bytes(path, limit=BYTES, follow=True)
        except files.Damaged as error:
            raise Unreadable(error.reason) from error
        except FileNotFoundError as error:
            raise Unreadable("there is no such file") from error
        except files.Unreachable as error:
            if getattr(error.__cause__, "errno", None) in (errno.EACCES, errno.EPERM):
                raise Unreadable(error.reason) from error
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


def _root(path: str, split: str) -> str:
    """Returns the folder of a split; UserError if there is none."""
    if not os.path.isdir(path):
        raise UserError(f"--config.data.path={short(path)}: {_no_folder(path)}")
    base = split_name(split)
    folders = split_folders(path)
    inner = os.path.join(path, base)
    if os.sep in base and os.path.isdir(inner):
        return inner
    name = find_split(base, folders, path)
    if name is not None:
        beside = [other for other, kind in folders.items() if other != name and not kind]
        if beside:
            log.info("%s: only its folder %s is read, and not %s", path, name, few(beside))
        return os.path.join(path, name)
    splits = [other for other, kind in folders.items() if kind]
    if splits:
        others = " and move the rest into it" if len(splits) < len(folders) else ""
        raise ConfigError(
            "config.data.split",
            split,
            f"{path} has no folder {base}, but the splits {few(splits)}",
            f"use --config.data.split={splits[0]}, or make the folder {base}{others}",
        )
    if split_kind(base) == "train":
        return path
    above = os.path.dirname(os.path.abspath(path))
    sibling = None
    if split_kind(os.path.basename(path)):
        sibling = find_split(base, split_folders(above), above)
    cure = (
        "use --config.data.split=train, or hold out a part of it: train[90%:], and train[:90%] to "
        "train on"
    )
    if sibling:
        cure = f"use --config.data.path={above}, which has the folder {sibling}"
    raise ConfigError(
        "config.data.split", split, f"{path} is one set, without folders for splits", cure
    )


def _no_folder(path: str) -> str:
    """Returns the reason why `path` is not a folder of images, and the cure."""
    if not os.path.isfile(path):
        try:
            os.stat(path)
        except PermissionError:
            return "you may not read what lies there; change the permissions, or copy it"
        except (OSError, ValueError):
            return "there is no such folder; give the folder that holds the images"
        return "it is no folder; give the folder that holds the images"
    folder = os.path.dirname(os.path.abspath(path))
    if path.lower().endswith((*EXTENSIONS, ".avif", *PHONES)):
        return (
            f"it is one image; give the folder that holds the images: --config.data.path={folder}"
        )
    inner = os.path.splitext(path)[0].removesuffix(".tar")
    with contextlib.suppress(OSError, EOFError):
        if zipfile.is_zipfile(path):
            return f"it is a zip archive; unpack it (unzip {path} -d {inner}), and give the folder"
        if tarfile.is_tarfile(path):
            command = f"mkdir {inner} && tar -xf {path} -C {inner}"
            return f"it is a tar archive; unpack it ({command}), and give the folder"
    return "it is a file; give the folder that holds the images"


def _check_mixed(root: str, names: Sequence[str]) -> None:
    """Raises UserError if a deeper folder has folders of several splits.

    A run would train on its own test set.
    """
    below: dict[str, set[str]] = {}
    for folder in {name.rpartition(os.sep)[0] for name in names}:  # faster than os.path.dirname
        while folder:
            above, name = os.path.split(folder)
            below.setdefault(above, set()).add(name)
            folder = above
    for above in sorted(below):
        kinds = {split_kind(name) for name in below[above]} - {""}
        if "train" in kinds and len(kinds) > 1:
            several = sorted(name for name in below[above] if split_kind(name))
            path = os.path.join(root, above)
            raise ConfigError(
                "config.data.path",
                root,
                f"{path} has the splits {few(several)}, which would be read as one set",
                f"use --config.data.path={path}",
            )


def _labels(
    names: Sequence[str], unreadable: Sequence[str]
) -> tuple[np.ndarray | None, list[str] | None]:
    """Returns (labels int32 [n], classes); (None, None) if an image is not below a folder.

    A folder that could not be listed stays a class, so that the numbers of the others do not change
    when it can be listed again.
    """
    if not all(os.sep in name for name in names):
        return None, None
    tops = [name.partition(os.sep)[0] for name in names]
    composed = {top: nfc(top) for top in {*tops, *unreadable}}
    classes = sorted(set(composed.values()))
    number = {name: k for k, name in enumerate(classes)}
    by_top = {top: number[name] for top, name in composed.items()}
    return np.array([by_top[top] for top in tops], np.int32), classes


def _advise(listing: Found) -> None:
    """Logs how to read .heic images if some were skipped."""
    phones = sum(listing.passed[ending] for ending in PHONES)
    if phones:
        log.warning(
            "%d .heic images in %s are passed over; to read them: %s",
            phones,
            listing.root,
            errors.install("heic"),
        )
