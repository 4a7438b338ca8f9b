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

import numpy as np

from jssl.config import UserError
from jssl.data import fingerprint
from jssl.data.order import split_name, split_rows
from jssl.data.stream import chunks

VERSION = 1


class Arrays:
    """A source over arrays: images uint8 [N, H, W, C], sizes int32 [N, 2], labels int32 [N] | None.

    `rows` (int64, or None for all) picks the examples of a split. `folder`, if not empty, is where
    the arrays are mapped from: a worker process then maps the files again instead of being sent
    their content.
    """

    def __init__(self, name, images, sizes, labels, classes, rows=None, folder=""):
        self.name, self.classes, self.rows, self.folder = name, classes, rows, folder
        self.images, self.sizes, self.labels = images, sizes, labels
        self.canvas = tuple(images.shape[1:])

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
        return Arrays, fields


def arrays(images: np.ndarray, labels: np.ndarray | None, name: str, split: str = "") -> Arrays:
    """A source over images uint8 [N, H, W, C] and labels int [N] (0 to K - 1) or None.

    `split`, if given, may carry a slice such as "train[:90%]". Raises UserError for other shapes.
    """
    fits = images.ndim == 4 and images.dtype == np.uint8 and len(images) > 0
    if not fits or (labels is not None and labels.shape != images.shape[:1]):
        raise UserError(
            f"{name} is wrong because its images are {images.dtype} {images.shape}; "
            "give uint8 [N, H, W, C] with N >= 1, and labels [N] or None"
        )
    classes = None if labels is None else [str(k) for k in range(int(labels.max()) + 1)]
    sizes = np.tile(np.array(images.shape[1:3], np.int32), (len(images), 1))
    labels = None if labels is None else labels.astype(np.int32)
    rows = split_rows(split, len(images)) if split else None
    return Arrays(name, images, sizes, labels, classes, rows)


def open_packed(path: str, split: str) -> Arrays:
    """The source over a directory that `pack` wrote.

    Splits as in `locate`, slices as in `split_rows`. Raises UserError for a missing or damaged one.
    """
    path = locate(path, split)
    whole = _mapped(path, None)
    return _mapped(path, split_rows(split, len(whole)))


def locate(path: str, split: str) -> str:
    """The packed directory of a split: path/<split> if it is one; else the split must be "train",
    and is all of `path`. Raises UserError if there is none."""
    path, wanted = os.path.expanduser(path), split_name(split)
    inner = os.path.join(path, wanted)
    if os.path.isfile(os.path.join(inner, "meta.json")):
        return inner
    if not os.path.isfile(os.path.join(path, "meta.json")):
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
    with fresh(out) as folder:
        examples = _write(source, folder, progress)
    return {"examples": examples, "bytes": folder_bytes(out), "damaged": len(source) - examples}


@contextlib.contextmanager
def fresh(out: str):
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
        _header(file, len(source), source.canvas)
        for _, batch in chunks(source, progress):
            intact = batch["damaged"] < 0
            file.write(np.ascontiguousarray(batch["image"][intact]).data)
            for key in small.keys() & batch.keys():
                small[key].append(batch[key][intact])
        examples = sum(map(len, small["size"]))
        file.seek(0)
        _header(file, examples, source.canvas)
    for key, parts in small.items():
        if parts:
            np.save(os.path.join(folder, key + ".npy"), np.concatenate(parts), allow_pickle=False)
    meta = {"version": VERSION, "name": source.name, "classes": source.classes}
    with open(os.path.join(folder, "meta.json"), "w", encoding="utf-8") as file:
        json.dump(meta | {"examples": examples, "canvas": list(source.canvas)}, file, indent=1)
    return examples


def _header(file, examples, canvas):
    # NumPy pads the header so that the first axis may grow: rewriting it never moves the data.
    fields = {"descr": "|u1", "fortran_order": False, "shape": (examples, *canvas)}
    np.lib.format.write_array_header_1_0(file, fields)


def _mapped(folder, rows):
    try:
        with open(os.path.join(folder, "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
        name, classes = named(meta)
        images, sizes = (_map(folder, key) for key in ("image", "size"))
        labels = None if classes is None else _map(folder, "label")
        _check(meta, images, sizes, labels)
    except (OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError) as error:
        raise UserError(
            f"data.path={folder} is wrong because it is no intact packed data set "
            f"({' '.join(str(error).split()) or type(error).__name__}); pack it again"
        ) from error
    return Arrays(name, images, sizes, labels, classes, rows, folder)


def named(meta) -> tuple[str, list[str] | None]:
    """The name and the classes that a meta.json gives; ValueError if they are none."""
    name, classes = meta["name"], meta["classes"]
    words = [name] if classes is None else [name, *classes]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("name must be a text, and classes a list of texts or null")
    return name, classes


def _map(folder, key):
    return np.load(os.path.join(folder, key + ".npy"), mmap_mode="r", allow_pickle=False)


def _check(meta, images, sizes, labels):
    if meta["version"] != VERSION:
        raise ValueError(f"version {meta['version']}, and this jssl reads version {VERSION}")
    n = meta["examples"]
    wanted = {"image": ("uint8", (n, *meta["canvas"])), "size": ("int32", (n, 2))}
    wanted |= {} if labels is None else {"label": ("int32", (n,))}
    for key, array in {"image": images, "size": sizes, "label": labels}.items():
        if key in wanted and (array.dtype.name, array.shape) != wanted[key]:
            raise ValueError(f"{key}.npy is {array.dtype.name} {array.shape}, not {wanted[key]}")
