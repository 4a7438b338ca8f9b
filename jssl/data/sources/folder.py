"""A folder of image files, nested as it may be; labels are optional."""

import contextlib
import errno
import functools
import importlib.util
import logging
import os
import tarfile
import time
import zipfile

import numpy as np
from PIL import features

from jssl import errors
from jssl.config import UserError
from jssl.data import canvas as canvases
from jssl.data import depth, files, fingerprint
from jssl.data.decode import Pixels, Unreadable, assemble, look
from jssl.data.sampling import split_name, split_rows
from jssl.data.source import image_fields
from jssl.data.splits import few, find_split, nfc, split_folders, split_kind
from jssl.data.walk import walk
from jssl.parallel import preemption

log = logging.getLogger("jssl")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
PHONES = (".heic", ".heif")  # of pillow-heif, the extra "heic"
BYTES = 512 * 2**20  # of one file at most: more than 89 megapixels of any format need
PAUSES = (0.1, 0.5, 2.0)  # seconds before a file is read again after an error that may pass


def extensions() -> tuple[str, ...]:
    """The endings of the images that can be read on this machine, in lower case."""
    avif = (".avif",) if features.check("avif") else ()
    phones = PHONES if importlib.util.find_spec("pillow_heif") else ()
    return EXTENSIONS + avif + phones


class ImageFolder:
    """A source over image files; see `open_folder`.

    `single_class` is the folder in which all images lie, if there is just one: no label for a
    training set, and one for a test set of which other classes are known (`jssl.data.labels`).
    """

    modality = "image"

    def __init__(self, root, files, pixels, labels, classes, single_class=None):
        self.name = root
        self.pixels = pixels
        self.classes = classes
        self.single_class = single_class
        self.max_value = pixels.white
        self._labels = labels
        # One block of bytes instead of millions of str: small to keep, quick to send to a worker.
        names = [os.fsencode(file) for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)

    def __len__(self):
        return len(self._ends)

    def describe(self, index: int) -> str:
        return os.path.join(self.name, os.fsdecode(self._file(index)))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`; see `decode.assemble` for keys, shapes and substitutes."""
        return assemble(
            np.asarray(indices),
            self._load,
            len(self),
            self.pixels,
            self.classes is not None,
            f"data.path={self.name}",
        )

    @property
    def fields(self):
        """See `jssl.data.source.Source`."""
        return image_fields(self.pixels.canvas, self.pixels.dtype, self.classes is not None)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the names of the files, relative to the folder, and of their sizes."""
        return fingerprint.of_files(self._names, self._ends, self.describe)

    def _file(self, index):
        start = self._ends[index - 1] if index else 0
        return self._names[start : self._ends[index]]

    def _load(self, index):
        data = read_patiently(self.describe(index))
        image, valid = self.pixels(data)
        return image, valid, -1 if self._labels is None else self._labels[index]


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
    """The source over all images below a folder, in the sorted order of their paths.

    A folder in `path` that is the split (`splits.find_split`: `Train/` and `val/` too) is the root.
    Without one the split must be "train", and is everything; but not if `path` has folders of other
    splits. Slices as in `split_rows`. Labels are the first-level directories, sorted, in Unicode's
    NFC, if there are at least two and every image lies below one (torchvision's ImageFolder); else
    there are none. See `walk` for which files are found, and `jssl.data.load` for `canvas`,
    `channels`, `aspect` and `max_value`; `exif` says whether EXIF orientation is applied.

    Raises UserError for a missing folder, one without images, or an unknown split.
    """
    root = _root(os.path.expanduser(path), split)
    found = walk(root, extensions())
    found.announce("images")
    _advise(found)
    if not found.files:
        raise UserError(
            f"data.path={root} is wrong because no image lies below it ({found.describe('images')})"
            f"; give a folder with files that end in {' '.join(extensions())}"
        )
    _check_mixed(root, found.files)
    names = found.files
    labels, classes = _labels(names, [name for name in found.unreadable if os.sep not in name])
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
    shape = (*canvases.canvas_of(canvas, aspect), channels)
    pixels = Pixels(canvas, shape, exif, 0.0 if white == 255 else white)
    return ImageFolder(root, names, pixels, labels, classes, single)


def _white(root, names):
    """What value is white in the images of more than 8 bits; 0 if there are none of them."""
    names = [name for name in names if name.lower().endswith(depth.ENDINGS)]
    count = min(len(names), depth.SAMPLE)
    rows = np.linspace(0, len(names) - 1, count).astype(np.int64).tolist()
    paths = [os.path.join(root, names[row]) for row in rows]
    with preemption.pool(16) as pool:
        looks = [pool.submit(_look, path) for path in paths]
        return depth.find_white([preemption.result(one) for one in looks], f"data.path={root}")


def _look(path):
    try:
        return look(read_patiently(path))
    except Unreadable:  # it is met again, and counted, when it is read
        return None


def read_patiently(path: str) -> bytes:
    """The bytes of one example.

    Raises:
        Unreadable: The file is not there, no regular file, too large, or not for this user.
        files.Unreachable: The system could not read it in several tries. That is no damage.
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


def _root(path, split):
    if not os.path.isdir(path):
        raise UserError(f"data.path={path!r} is wrong because {_no_folder(path)}")
    wanted = split_name(split)
    folders = split_folders(path)
    inner = os.path.join(path, wanted)
    if os.sep in wanted and os.path.isdir(inner):
        return inner
    name = find_split(wanted, folders, path)
    if name is not None:
        beside = [other for other, kind in folders.items() if other != name and not kind]
        if beside:
            log.info("%s: only its folder %s is read, and not %s", path, name, few(beside))
        return os.path.join(path, name)
    splits = [other for other, kind in folders.items() if kind]
    if splits:
        others = " and move the rest into it" if len(splits) < len(folders) else ""
        raise UserError(
            f"data.split={split} is wrong because {path} has no folder {wanted}, but the splits "
            f"{few(splits)}; use data.split={splits[0]}, or make the folder {wanted}{others}"
        )
    if split_kind(wanted) == "train":
        return path
    above = os.path.dirname(os.path.abspath(path))
    beside = split_kind(os.path.basename(path)) and find_split(wanted, split_folders(above), above)
    raise UserError(
        f"data.split={split} is wrong because {path} is one set, without folders for splits; "
        + (
            f"use data.path={above}, which has the folder {beside}"
            if beside
            else "use data.split=train, or hold out a part of it: train[90%:], and train[:90%] "
            "to train on"
        )
    )


def _no_folder(path):
    """Why `path` is no folder of images, and the cure."""
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
        return f"it is one image; give the folder that holds the images, as data.path={folder}"
    inner = os.path.splitext(path)[0].removesuffix(".tar")
    with contextlib.suppress(OSError, EOFError):
        if zipfile.is_zipfile(path):
            return f"it is a zip archive; unpack it (unzip {path} -d {inner}), and give the folder"
        if tarfile.is_tarfile(path):
            made = f"mkdir {inner} && tar -xf {path} -C {inner}"
            return f"it is a tar archive; unpack it ({made}), and give the folder"
    return "it is a file; give the folder that holds the images"


def _check_mixed(root, names):
    """`UserError` if, further down, folders of several splits lie side by side: a run would train
    on its own test set."""
    below: dict[str, set[str]] = {}
    for folder in {os.path.dirname(name) for name in names}:
        while folder:
            above, name = os.path.split(folder)
            below.setdefault(above, set()).add(name)
            folder = above
    for above in sorted(below):
        kinds = {split_kind(name) for name in below[above]} - {""}
        if "train" in kinds and len(kinds) > 1:
            several = sorted(name for name in below[above] if split_kind(name))
            path = os.path.join(root, above)
            raise UserError(
                f"data.path={root} is wrong because {path} has the splits {few(several)}, which "
                f"would be read as one set; use data.path={path}"
            )


def _labels(names, unreadable):
    """(labels int32 [n], classes), or (None, None) if not every image lies below a folder.

    A folder that could not be listed stays a class, so that the numbers of the others do not change
    when it can be listed again."""
    tops = [nfc(name.split(os.sep, 1)[0]) if os.sep in name else None for name in names]
    if None in tops:
        return None, None
    classes = sorted({*tops, *map(nfc, unreadable)})
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int32), classes


def _advise(found):
    phones = sum(found.passed[ending] for ending in PHONES)
    if phones:
        log.warning(
            "%d .heic images in %s are passed over; to read them: %s",
            phones,
            found.root,
            errors.install("heic"),
        )
