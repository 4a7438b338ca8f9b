"""Examples that are arrays already: in memory, or packed into files that are mapped, not read.

A packed directory holds image.npy uint8 [N, H, W, C], size.npy int32 [N, 2], perhaps label.npy
int32 [N], and meta.json. It is the fastest source: a batch is one gather from the page cache.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jssl.config import UserError
from jssl.data import fingerprint
from jssl.data.files import Damaged, foreign, open_regular, read_json
from jssl.data.host_batches import chunks
from jssl.data.sampling import split_name, split_rows
from jssl.data.source import image_fields
from jssl.data.splits import few, find_split, split_folders

VERSION = 1
_ROWS = 2**20  # of an array that are checked at a time
DTYPES = ("uint8", "uint16")  # of images; white is the largest number of each


class ArrayImages:
    """A source over arrays: images uint8 [N, H, W, C], sizes int32 [N, 2], labels int32 [N] | None.

    `rows` (int64, or None for all) picks the examples of a split. `folder`, if not empty, is where
    the arrays are mapped from: a worker process then maps the files again instead of being sent
    their content.
    """

    modality = "image"

    def __init__(self, name, images, sizes, labels, classes, rows=None, folder=""):
        self.name = name
        self.classes = classes
        self.rows = rows
        self.folder = folder
        self.images = images
        self.sizes = sizes
        self.labels = labels

    def __len__(self):
        return len(self.images) if self.rows is None else len(self.rows)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` (see `jssl.data` for keys and shapes); none is damaged."""
        indices = np.asarray(indices)
        rows = indices if self.rows is None else self.rows[indices]
        batch = {
            "image": np.asarray(self.images[rows]),
            "size": np.asarray(self.sizes[rows]),
            "index": indices.astype(np.int32),
            "damaged": np.full(len(rows), -1, np.int32),
        }
        return batch if self.classes is None else batch | {"label": self.labels[rows]}

    @property
    def fields(self):
        """See `jssl.data.source.Source`."""
        return image_fields(self.images.shape[1:], self.images.dtype, self.classes is not None)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of labels, sizes, classes and rows, and of some images."""
        about = list(self.classes) if self.classes else None
        small = (self.sizes, self.labels, self.rows)
        return fingerprint.of_arrays((self.images,), small, about)

    def describe(self, index: int) -> str:
        return f"{self.name} row {index if self.rows is None else self.rows[index]}"

    def __reduce__(self):
        if self.folder:
            return _mapped, (self.folder, self.rows)
        fields = (self.name, self.images, self.sizes, self.labels, self.classes, self.rows)
        return ArrayImages, fields


def arrays(
    images: np.ndarray, labels: np.ndarray | None, name: str, split: str = ""
) -> ArrayImages:
    """A source over images uint8 [N, H, W, C] and labels int [N] (0 to K - 1) or None.

    `split`, if given, may carry a slice such as "train[:90%]". Raises UserError for other shapes.
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
    """The source over a directory that `pack` wrote.

    Splits as in `locate`, slices as in `split_rows`. Raises UserError for a missing or damaged one.
    """
    path = locate(path, split)
    whole = _mapped(path, None)
    return _mapped(path, split_rows(split, len(whole)))


def locate(path: str, split: str) -> str:
    """The packed directory of a split: the one in `path` that is the split (`splits.find_split`);
    else the split must be "train", and is all of `path`. Raises UserError if there is none."""
    path = os.path.expanduser(path)
    wanted = split_name(split)
    inner = os.path.join(path, wanted)
    if os.path.isfile(os.path.join(inner, "meta.json")):
        return inner
    packs = [n for n in split_folders(path) if os.path.isfile(os.path.join(path, n, "meta.json"))]
    name = find_split(wanted, packs, path)
    if name is not None:
        return os.path.join(path, name)
    if not os.path.isfile(os.path.join(path, "meta.json")):
        if packs:
            raise UserError(
                f"data.split={split} is wrong because {path} holds only {few(packs)}; "
                f"use data.split={packs[0]}, or pack {wanted} too"
            )
        raise UserError(
            f"data.path={path} is wrong because there is no meta.json in it or in its folder "
            f"{wanted}; make one with `jssl data pack`, or name the folder that holds one"
        )
    if wanted != "train":
        raise UserError(
            f"data.split={split} is wrong because {path} is packed without splits; use train"
        )
    return path


def pack(source, out: str, progress) -> dict[str, int]:
    """Writes a source into the new directory `out`; returns examples, bytes and damaged.

    Streams, so that the data set may exceed memory, and is atomic: `out` appears when it is whole.
    Unreadable examples are left out and counted. `progress(done, total)` is called after each part.
    Raises UserError if `out` exists.
    """
    out = os.path.abspath(os.path.expanduser(out))
    with atomic_directory(out) as folder:
        examples = _write(source, folder, progress)
    return {"examples": examples, "bytes": folder_bytes(out), "damaged": len(source) - examples}


@contextlib.contextmanager
def atomic_directory(out: str):
    """A folder to write into, which becomes `out` (absolute) at the end, or vanishes on an error or
    a SIGTERM. Raises UserError if `out` exists, or cannot be made."""
    if os.path.lexists(out):
        raise UserError(f"out={out} is wrong because it exists; name a new directory, or remove it")
    try:
        os.makedirs(os.path.dirname(out), exist_ok=True)
        folder = tempfile.mkdtemp(prefix=os.path.basename(out) + ".", dir=os.path.dirname(out))
    except OSError as error:
        raise UserError(f"out={out} cannot be made ({error.strerror}); name another") from None
    here = threading.current_thread() is threading.main_thread()  # who alone hears signals
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number)) if here else 0
    try:
        yield folder
        os.chmod(folder, 0o755)  # mkdtemp gives 0o700, and data sets are shared
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def _write(source, folder, progress):
    small = {"size": [], "label": []}
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
    for key, parts in small.items():
        if parts:
            np.save(os.path.join(folder, key + ".npy"), np.concatenate(parts), allow_pickle=False)
    meta = {"version": VERSION, "name": source.name, "classes": source.classes}
    meta |= {"dtype": image.dtype.name, "examples": examples, "canvas": list(image.shape)}
    with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1)
    return examples


def _header(file, examples, canvas, dtype):
    # NumPy pads the header so that the first axis may grow: rewriting it never moves the data.
    fields = {"descr": dtype.str, "fortran_order": False, "shape": (examples, *canvas)}
    np.lib.format.write_array_header_1_0(file, fields)


def _mapped(folder, rows):
    name, classes, images, sizes, labels = intact(folder, _arrays)
    return ArrayImages(name, images, sizes, labels, classes, rows, folder)


def _arrays(folder, meta):
    """What a folder of images holds; ValueError where its content cannot be."""
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


# What follows is shared with `tokens`: a packed folder may come from anybody.


def intact(folder: str, read: Callable, *given: Any) -> Any:
    """``read(folder, content of meta.json, *given)``.

    Whatever it raises about damage is one UserError with the folder's name.
    """
    try:
        with foreign(folder):
            return read(folder, read_json(os.path.join(folder, "meta.json"), follow=True), *given)
    except FileNotFoundError as error:
        reason = f"{os.path.basename(error.filename or 'a file')} is missing"
    except Damaged as error:
        reason = error.reason
        if error.name != folder:
            reason = f"{os.path.basename(error.name)}: {reason}"
    raise UserError(
        f"data.path={folder} is wrong because it is no intact packed data set ({reason}); "
        "pack it again"
    )


def mapped(folder: str, key: str, dtype: np.typing.DTypeLike, shape: Sequence[int]) -> np.memmap:
    """The array in KEY.npy of a folder, mapped. ValueError if its type or shape is another one."""
    path = os.path.join(folder, f"{key}.npy")
    with open_regular(path, follow=True):
        pass  # a pipe would be waited for
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"{key}.npy is no array in NumPy's own format")
    if (array.dtype, array.shape) != (np.dtype(dtype), tuple(shape)):
        wanted = f"{np.dtype(dtype)} {tuple(shape)}"
        raise ValueError(f"{key}.npy is {array.dtype} {array.shape}, not {wanted}")
    return array


def spans(count: int) -> Iterator[slice]:
    """`range(count)` in slices that fit into memory."""
    for first in range(0, count, _ROWS):
        yield slice(first, min(first + _ROWS, count))


def check_version(meta: dict[str, Any], version: int) -> None:
    """ValueError if a meta.json is of another version."""
    if meta["version"] != version:
        raise ValueError(f"version {meta['version']}, and this jssl reads version {version}")


def check_labels(labels: np.ndarray | None, classes: list[str] | None) -> None:
    """ValueError unless labels [N] are -1 (unlabelled) or the number of a class."""
    if labels is None or classes is None:
        return
    for rows in spans(len(labels)):
        part = np.asarray(labels[rows])
        if part.min() < -1 or part.max() >= len(classes):
            raise ValueError(f"label.npy has labels outside -1 to {len(classes) - 1}")


def named(meta: dict[str, Any]) -> tuple[str, list[str] | None]:
    """The name and the classes that a meta.json gives; ValueError if they are none."""
    name = meta["name"]
    classes = meta["classes"]
    words = [name] if classes is None else [name, *classes]
    if not isinstance(classes, list | None) or not all(isinstance(word, str) for word in words):
        raise ValueError("name must be a text, and classes a list of texts or null")
    return name, classes
