"""A folder of image files, nested as it may be; labels are optional."""

import os

import numpy as np

from jssl.config import UserError
from jssl.data.decode import Unreadable, assemble, decode, place
from jssl.data.order import split_name, split_rows

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Folder:
    """A source over image files; see `open_folder`."""

    def __init__(self, root, files, canvas, labels, classes):
        self.name, self.canvas, self.classes = root, canvas, classes
        self._labels = labels
        # One block of bytes instead of millions of str: small to keep, quick to send to a worker.
        names = [os.fsencode(file) for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)

    def __len__(self):
        return len(self._ends)

    def describe(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.name, os.fsdecode(self._names[start : self._ends[index]]))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`; see `decode.assemble` for keys, shapes and substitutes."""
        return assemble(
            np.asarray(indices),
            self._load,
            len(self),
            self.canvas,
            self.classes is not None,
            f"data.path={self.name}",
        )

    def _load(self, index):
        try:
            with open(self.describe(index), "rb") as file:
                data = file.read()
        except OSError as error:
            raise Unreadable(error.strerror or type(error).__name__) from error
        size, channels = self.canvas[1:]
        image, valid = place(decode(data, channels, size), size)
        return image, valid, -1 if self._labels is None else self._labels[index]


def open_folder(path: str, split: str, canvas: int, channels: int) -> Folder:
    """The source over all images below a folder, in the sorted order of their paths.

    With a directory path/<split> that is the root; else the split must be "train", and is
    everything. Slices as in `split_rows`. Labels are the first-level directories, sorted, if there
    are at least two and every image lies below one (torchvision's ImageFolder); else there are
    none. Files are told by their extension; names that begin with a dot are passed over. Raises
    UserError for a missing folder, one without images, or an unknown split.
    """
    root = _root(os.path.expanduser(path), split)
    files = sorted(_files(root))
    if not files:
        raise UserError(
            f"data.path={root} is wrong because no image lies below it; give a folder with files "
            f"that end in {' '.join(EXTENSIONS)}"
        )
    labels, classes = _labels(files)
    rows = split_rows(split, len(files))
    if rows is not None:
        files = [files[row] for row in rows]
        labels = None if labels is None else labels[rows]
    return Folder(root, files, (canvas, canvas, channels), labels, classes)


def _root(path, split):
    if not os.path.isdir(path):
        raise UserError(
            f"data.path={path!r} is wrong because there is no such folder; "
            "give the folder that holds the images"
        )
    wanted = split_name(split)
    if os.path.isdir(os.path.join(path, wanted)):
        return os.path.join(path, wanted)
    if wanted == "train":
        return path
    with os.scandir(path) as entries:
        inner = sorted(entry.name for entry in entries if entry.is_dir())[:5]
    raise UserError(
        f"data.split={split} is wrong because {path} has no folder {wanted}; "
        f"use {', '.join([*inner, 'train'])} or a slice such as train[90%:]"
    )


def _files(root):
    seen = set()  # a link may lead back up: every directory is entered once
    for folder, inner, names in os.walk(root, followlinks=True):
        where = os.stat(folder)
        if (where.st_dev, where.st_ino) in seen:
            inner.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _labels(files):
    tops = [file.split(os.sep, 1)[0] if os.sep in file else None for file in files]
    found = set(tops)
    if None in found or len(found) < 2:
        return None, None
    classes = sorted(found)
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int32), classes
