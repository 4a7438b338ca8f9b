"""Examples that are already arrays: in memory, or packed into memory-mapped files.

A packed directory holds image.npy uint8 [N, H, W, C], size.npy int32 [N, 2], perhaps label.npy
int32 [N], and meta.json. It is the fastest source: a batch is one gather from the page cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.data import fingerprint
from jssl.data.files import Damaged, foreign, open_regular, read_json
from jssl.data.host_batches import chunks
from jssl.data.sampling import split_name, split_rows
from jssl.data.source import Batch, Source, image_fields
from jssl.data.splits import few, find_split, split_folders

if TYPE_CHECKING:
    from jax import ShapeDtypeStruct

    from jssl.core import Modality

VERSION = 1
_ROWS = 2**20  # rows of an array that are checked at a time
DTYPES = ("uint8", "uint16")  # of images; white is the largest number of the dtype


class ArrayImages:
    """A source of image arrays."""

    modality: Modality = "image"

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        sizes: np.ndarray,
        labels: np.ndarray | None,
        classes: Sequence[str] | None,
        rows: np.ndarray | None = None,
        folder: str = "",
    ):
        """Describes the source.

        Args:
          name: name of the data set, for messages.
          images: uint8 or uint16 [N, H, W, C].
          sizes: int32 [N, 2], height and width of each image.
          labels: int32 [N], or None.
          classes: class names by number, or None.
          rows: int64, the rows of a split; None for all.
          folder: the folder from which the arrays are mapped, or "". A worker process maps the
            files of the folder again, so that their content is not sent to it.
        """
        self.name = name
        self._fingerprint: str | None = None
        self.classes = classes
        self.rows = rows
        self.folder = folder
        self.images = images
        self.sizes = sizes
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images) if self.rows is None else len(self.rows)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` (`jssl.data` lists the arrays); none is damaged."""
        indices = np.asarray(indices)
        rows = indices if self.rows is None else self.rows[indices]
        batch = {
            "image": np.asarray(self.images[rows]),
            "size": np.asarray(self.sizes[rows]),
            "index": indices.astype(np.int32),
            "damaged": np.full(len(rows), -1, np.int32),
        }
        if self.classes is None:
            return batch
        assert self.labels is not None, "classes come with labels"
        return batch | {"label": self.labels[rows]}

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        return image_fields(self.images.shape[1:], self.images.dtype, self.classes is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of labels, sizes, classes and rows, and of a sample of the images."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        """Computes `fingerprint`."""
        about = list(self.classes) if self.classes else None
        small = (self.sizes, self.labels, self.rows)
        return fingerprint.of_arrays((self.images,), small, about)

    def describe(self, index: int) -> str:
        """Returns the row of an example, for messages."""
        return f"{self.name} row {index if self.rows is None else self.rows[index]}"

    def __reduce__(self) -> tuple[Callable[..., ArrayImages], tuple]:
        if self.folder:
            return _mapped, (self.folder, self.rows)
        fields = (self.name, self.images, self.sizes, self.labels, self.classes, self.rows)
        return ArrayImages, fields


def arrays(
    images: np.ndarray, labels: np.ndarray | None, name: str, split: str = ""
) -> ArrayImages:
    """Makes a source of arrays.

    Args:
      images: uint8 or uint16 [N, H, W, C], N >= 1.
      labels: int [N], 0 to K - 1, or None.
      name: name of the data set, for messages.
      split: a split, perhaps with a slice such as "train[:90%]"; "" for all images.

    Raises:
      UserError: the arrays have other shapes or dtypes.
    """
    fits = images.ndim == 4 and images.dtype.name in DTYPES and len(images) > 0
    if not fits or (labels is not None and labels.shape != images.shape[:1]):
        raise UserError(
            f"{name} is wrong because its images are {images.dtype} {images.shape}; "
            "give uint8 (or uint16) [N, H, W, C] with N >= 1, and labels [N] or None"
        )
    classes = None if labels is None else [str(k) for k in range(int(labels.max()) + 1)]
    sizes = np.tile(np.array(images.shape[1:3], np.int32), (len(images), 1))
    labels = None if labels is None else labels.astype(np.int32)
    rows = split_rows(split, len(images)) if split else None
    return ArrayImages(name, images, sizes, labels, classes, rows)


def open_packed(path: str, split: str) -> ArrayImages:
    """Opens a directory that `pack` wrote.

    Args:
      path: see `locate`.
      split: see `locate`; slices as in `split_rows`.

    Raises:
      UserError: the directory is missing or damaged.
    """
    path = locate(path, split)
    whole = _mapped(path, None)
    return _mapped(path, split_rows(split, len(whole)))


def locate(path: str, split: str) -> str:
    """Returns the packed directory of a split.

    It is the folder in `path` that is the split (`splits.find_split`). If there is none, the split
    must be "train", and it is `path` itself.

    Raises:
      UserError: there is no such directory.
    """
    path = os.path.expanduser(path)
    base = split_name(split)
    inner = os.path.join(path, base)
    if os.path.isfile(os.path.join(inner, "meta.json")):
        return inner
    packs = [n for n in split_folders(path) if os.path.isfile(os.path.join(path, n, "meta.json"))]
    name = find_split(base, packs, path)
    if name is not None:
        return os.path.join(path, name)
    if not os.path.isfile(os.path.join(path, "meta.json")):
        if packs:
            raise ConfigError(
                "config.data.split",
                split,
                f"{path} holds only {few(packs)}",
                f"use --config.data.split={packs[0]}, or pack {base} too",
            )
        raise ConfigError(
            "config.data.path",
            path,
            f"there is no meta.json in it or in its folder {base}",
            "make one with `jssl data pack`, or name the folder that holds one",
        )
    if base != "train":
        raise ConfigError(
            "config.data.split", split, f"{path} is packed without splits", "use train"
        )
    return path


def pack(source: Source, out: str, progress: Callable[[int, int], None]) -> dict[str, int]:
    """Writes a source of images into the new directory `out`.

    Streams, so that the data set may exceed memory. The write is atomic: `out` appears when it is
    complete. Unreadable examples are left out and counted.

    Args:
      source: a source of images.
      out: the directory to create.
      progress: progress(done, total) is called after each chunk.

    Returns:
      The number of examples, of bytes and of damaged examples.

    Raises:
      UserError: `out` exists, or cannot be created.
    """
    out = os.path.abspath(os.path.expanduser(out))
    with atomic_directory(out) as folder:
        examples = _write(source, folder, progress)
    return {"examples": examples, "bytes": folder_bytes(out), "damaged": len(source) - examples}


@contextlib.contextmanager
def atomic_directory(out: str) -> Iterator[str]:
    """Yields a temporary folder, which is renamed to `out` (an absolute path) at the end.

    The folder is deleted on an error or a SIGTERM.

    Raises:
      UserError: `out` exists, or cannot be created.
    """
    if os.path.lexists(out):
        raise ConfigError("out", out, "it exists", "name a new directory, or remove it")
    try:
        os.makedirs(os.path.dirname(out), exist_ok=True)
        folder = tempfile.mkdtemp(prefix=os.path.basename(out) + ".", dir=os.path.dirname(out))
    except OSError as error:
        raise ConfigError(
            "out", out, f"cannot be made ({error.strerror})", "name another"
        ) from None
    is_main = threading.current_thread() is threading.main_thread()  # others get no signals
    handler: Any = None
    if is_main:
        handler = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield folder
        os.chmod(folder, 0o755)  # mkdtemp gives 0o700, and data sets are shared
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, handler)


def folder_bytes(folder: str) -> int:
    """Returns the total bytes of the files in a folder."""
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def _write(source: Source, folder: str, progress: Callable[[int, int], None]) -> int:
    """Writes all files of a packed directory; returns the number of examples."""
    small: dict[str, list[np.ndarray]] = {"size": [], "label": []}
    with open(os.path.join(folder, "image.npy"), "wb") as file:
        image = source.fields["image"]
        _header(file, len(source), image.shape, image.dtype)
        for _, batch in chunks(source, progress):
            intact = batch["damaged"] < 0
            file.write(np.ascontiguousarray(batch["image"][intact]).data)
            for key in small.keys() & batch.keys():
                small[key].append(batch[key][intact])
        examples = sum(map(len, small["size"]))
        file.seek(0)
        _header(file, examples, image.shape, image.dtype)
    for key, chunk_arrays in small.items():
        if chunk_arrays:
            path = os.path.join(folder, key + ".npy")
            np.save(path, np.concatenate(chunk_arrays), allow_pickle=False)
    meta = {"version": VERSION, "name": source.name, "classes": source.classes}
    meta |= {"dtype": image.dtype.name, "examples": examples, "canvas": list(image.shape)}
    with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1)
    return examples


def _header(file: IO[bytes], examples: int, canvas: Sequence[int], dtype: np.dtype) -> None:
    # NumPy pads the header so that the first axis may grow: rewriting it never moves the data.
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (examples, *canvas)}
    np.lib.format.write_array_header_1_0(file, fields)


def _mapped(folder: str, rows: np.ndarray | None) -> ArrayImages:
    name, classes, images, sizes, labels = intact(folder, _arrays)
    return ArrayImages(name, images, sizes, labels, classes, rows, folder)


def _arrays(folder: str, meta: dict[str, Any]) -> tuple:
    """Returns (name, classes, images, sizes, labels) of a folder; ValueError if damaged."""
    check_version(meta, VERSION)
    name, classes = named(meta)
    count = meta["examples"]
    canvas = meta["canvas"]
    depth = meta.get("dtype", "uint8")
    if depth not in DTYPES:
        raise ValueError(f"dtype {depth!r} of images is none of {', '.join(DTYPES)}")
    images = mapped(folder, "image", depth, (count, *canvas))
    if images.ndim != 4:
        raise ValueError(f"image.npy is {images.shape}, not [N, H, W, C]")
    sizes = mapped(folder, "size", np.int32, (count, 2))
    for rows in spans(count):
        size = np.array(sizes[rows])
        turned = size[:, 0] > canvas[0]  # to fit: see `jssl.data.canvas`
        size[turned] = size[turned, ::-1]
        if size.min() < 1 or (size > images.shape[1:3]).any():
            raise ValueError(
                f"size.npy has sizes that are not 1 to {canvas[0]} by 1 to {canvas[1]}"
            )
    labels = None if classes is None else mapped(folder, "label", np.int32, (count,))
    check_labels(labels, classes)
    return name, classes, images, sizes, labels


# `jssl.data.text.text_source` shares the functions below: a packed folder may come from anybody.


def intact(folder: str, read: Callable[..., Any], *args: Any) -> Any:
    """Returns ``read(folder, content of meta.json, *args)``.

    Raises:
      UserError: `read` found damage, or a file is missing. The message names the folder.
    """
    try:
        with foreign(folder):
            return read(folder, read_json(os.path.join(folder, "meta.json"), follow=True), *args)
    except FileNotFoundError as error:
        reason = f"{os.path.basename(error.filename or 'a file')} is missing"
    except Damaged as error:
        reason = error.reason
        if error.name != folder:
            reason = f"{os.path.basename(error.name)}: {reason}"
    raise ConfigError(
        "config.data.path", folder, f"it is no intact packed data set ({reason})", "pack it again"
    )


def mapped(folder: str, key: str, dtype: np.typing.DTypeLike, shape: Sequence[int]) -> np.memmap:
    """Maps the array in KEY.npy of a folder; ValueError if it has another dtype or shape."""
    path = os.path.join(folder, f"{key}.npy")
    with open_regular(path, follow=True):
        pass  # NumPy would wait for a pipe
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"{key}.npy is no array in NumPy's own format")
    if (array.dtype, array.shape) != (np.dtype(dtype), tuple(shape)):
        expected = f"{np.dtype(dtype)} {tuple(shape)}"
        raise ValueError(f"{key}.npy is {array.dtype} {array.shape}, not {expected}")
    return array


def spans(count: int) -> Iterator[slice]:
    """Yields `range(count)` in slices that fit into memory."""
    for first in range(0, count, _ROWS):
        yield slice(first, min(first + _ROWS, count))


def check_version(meta: dict[str, Any], version: int) -> None:
    """Raises ValueError if a meta.json has another version."""
    if meta["version"] != version:
        raise ValueError(f"version {meta['version']}, and this jssl reads version {version}")


def check_labels(labels: np.ndarray | None, classes: Sequence[str] | None) -> None:
    """Raises ValueError unless labels [N] are -1 (unlabeled) or the number of a class."""
    if labels is None or classes is None:
        return
    for rows in spans(len(labels)):
        chunk = np.asarray(labels[rows])
        if chunk.min() < -1 or chunk.max() >= len(classes):
            raise ValueError(f"label.npy has labels outside -1 to {len(classes) - 1}")


def named(meta: dict[str, Any]) -> tuple[str, list[str] | None]:
    """Returns the name and the classes in a meta.json; ValueError if they have wrong types."""
    name = meta["name"]
    classes = meta["classes"]
    words = [name] if classes is None else [name, *classes]
    if not isinstance(classes, list | None) or not all(isinstance(word, str) for word in words):
        raise ValueError("name must be a text, and classes a list of texts or null")
    return name, classes
