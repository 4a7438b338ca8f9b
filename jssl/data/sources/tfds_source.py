"""Data sets that TensorFlow Datasets has prepared as ArrayRecord, read without TensorFlow.

The directory on disk is complete (features.json, dataset_info.json). So TFDS only reads it, and
never looks up a name, prepares or downloads: no network is used.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jssl.config import ConfigError, UserError, require_local_path
from jssl.data import canvas as canvases
from jssl.data import depth, fingerprint
from jssl.data.decode import Example, Pixels, Unreadable, assemble, look
from jssl.data.files import Damaged, foreign, one_line
from jssl.data.source import Batch, image_fields
from jssl.data.sources.tfds_trust import INFO as _INFO
from jssl.data.sources.tfds_trust import open_builder
from jssl.errors import short

if TYPE_CHECKING:
    from etils import epath
    from jax import ShapeDtypeStruct

    from jssl.core import Modality


class TfdsImages:
    """A source of the records of a TFDS split; see `open_tfds`."""

    modality: Modality = "image"

    def __init__(
        self,
        name: str,
        config_key: str,
        records: Any,
        image_key: str,
        pixels: Pixels,
        classes: Sequence[str] | None,
    ):
        """Describes the source.

        Args:
          name: the data set and its split, for messages.
          config_key: the key and the value that errors name.
          records: TFDS's own random-access source. It pickles to a few kB, and opens its files in
            each process when it is first read.
          image_key: the feature that holds the image.
          pixels: decodes an image.
          classes: class names by number, or None.
        """
        self.name = name
        self._fingerprint: str | None = None
        self.pixels = pixels
        self.classes = classes
        self.max_value = pixels.white
        self._config_key = config_key
        self._records = records
        self._image_key = image_key

    def __len__(self) -> int:
        return len(self._records)

    @property
    def fields(self) -> dict[str, ShapeDtypeStruct]:
        """Shape and dtype of the arrays of one example."""
        return image_fields(self.pixels.canvas, self.pixels.dtype, self.classes is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of the files of the split: names, sizes, and which records of each are read."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        """Computes `fingerprint`."""
        info = self._records.dataset_info
        files = info.splits[self._records.split].file_instructions
        return fingerprint.of_records(files, info.full_name)

    def describe(self, index: int) -> str:
        """Returns the record of an example, for messages."""
        return f"{self.name} record {index}"

    def read(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices`; see `decode.assemble` for keys and shapes."""
        indices = np.asarray(indices)
        fetched = self._fetch(indices)
        return assemble(
            indices,
            lambda index: self._load(index, fetched),
            len(self),
            self.pixels,
            self.classes is not None,
            self._config_key,
        )

    def encoded(self, indices: np.ndarray) -> Iterator[tuple[bytes | Unreadable, int]]:
        """Yields (encoded image, label) of examples; the label is -1 if there are none.

        If a record cannot be read, the error stands in the place of the image.
        """
        fetched = self._fetch(indices)
        for index in indices.tolist():
            try:
                record = fetched.get(index) or self._read_record(index)
                yield record[self._image_key], self._label(record)
            except Unreadable as error:
                yield error, -1

    def _label(self, record: Any) -> int:
        return -1 if self.classes is None else record["label"]

    def _fetch(self, indices: np.ndarray) -> dict[int, Any]:
        """Reads many records together, which is several times faster than one by one."""
        rows = np.unique(indices).tolist()
        try:
            return dict(zip(rows, self._records.__getitems__(rows), strict=True))
        except Exception:  # noqa: BLE001 - one damaged record fails all: try each alone
            return {}

    def _load(self, index: int, fetched: dict[int, Any]) -> Example:
        record = fetched.get(index) or self._read_record(index)
        image, size = self.pixels(record[self._image_key])
        return image, size, self._label(record)

    def _read_record(self, index: int) -> Any:
        """Reads a single record; raises Unreadable if it is damaged."""
        try:
            with foreign(self.describe(index)):
                return self._records[index]
        except Damaged as error:  # but not Unreachable: it may be readable later
            raise Unreadable(error.reason[:100]) from error
        except FileNotFoundError as error:
            raise Unreadable(one_line(error)) from error


def open_tfds(
    name: str,
    dir: str,
    split: str,
    canvas: int,
    channels: int,
    *,
    aspect: float = canvases.ASPECT,
    exif: bool = False,
    max_value: float = 0.0,
) -> TfdsImages:
    """Opens the images of a data set that TFDS prepared.

    If all images have one known size, the canvas is only as large as they need. The labels are
    those of a ClassLabel feature "label".

    Args:
      name: the data set: "cifar10", "imagenette/160px-v2", with ":3.0.2" for one version, else the
        newest.
      dir: the folder in which TFDS prepared the data set.
      split: any split of TFDS, as "train[:90%]" or "train+test".
      canvas: the shorter side that an image keeps, in pixels (``data.max_side``).
      channels: 1 or 3.
      aspect: see `jssl.data.load`.
      exif: whether EXIF orientation is applied.
      max_value: see `jssl.data.load`.

    Raises:
      UserError: the set is missing or unknown, or has no image.
    """
    records, features, key, classes = _open(name, dir, split, "Image")
    shape = canvases.canvas_of(canvas, aspect)
    height, width = features[key].shape[:2]
    if height is not None and width is not None:
        height, width = canvases.fitted(height, width, shape)
        shape = (min(height, width), max(height, width))
    config_key = f"--config.data.name={short(name)}"
    white = max_value or _white(records, features[key], key, config_key)
    pixels = Pixels(canvas, (*shape, channels), exif, 0.0 if white == 255 else white)
    return TfdsImages(f"{name} {split}", config_key, records, key, pixels, classes)


def _white(records: Any, feature: Any, key: str, config_key: str) -> float:
    """Returns the white value of a set of 16-bit images; 0 for a set of 8 bits."""
    kind = np.dtype(feature.np_dtype)
    if kind == np.uint8:
        return 0.0
    if kind != np.uint16:
        raise UserError(
            f"{config_key}: its images are {kind}; name a set of uint8 or uint16 images"
        )
    rows = np.linspace(0, len(records) - 1, min(len(records), depth.SAMPLE)).astype(int)
    levels = (look(record[key]) for record in records.__getitems__(rows.tolist()))
    return depth.find_white(levels, config_key)


def open_text(name: str, dir: str, split: str) -> tuple[Any, str, list[str] | None]:
    """Opens the texts of a data set that TFDS prepared; the arguments are those of `open_tfds`.

    Returns:
      (records, key of their text, label names or None). The key is the Text feature "text", or else
      the first Text feature that is not "id".
    """
    records, _, key, classes = _open(name, dir, split, "Text")
    return records, key, classes


def _open(
    name: str, dir: str, split: str, kind: str
) -> tuple[Any, dict[str, Any], str, list[str] | None]:
    """Returns (records, features, key, classes); `key` is the feature of type `kind` to read."""
    import tensorflow_datasets as tfds  # takes a second

    root = root_of(dir)
    builder = open_builder(find_prepared(name, root), name)
    _check_split(builder.info, name, split, root)
    features = dict(sorted(builder.info.features.items()))
    feature_type = getattr(tfds.features, kind)
    keys = [key for key, f in features.items() if type(f) is feature_type and key != "id"]
    if not keys:
        hint = ", or set --config.data.seq_len for its text" if "text" in features else ""
        raise ConfigError(
            "config.data.name",
            name,
            f"it has no {kind.lower()}, only {', '.join(features)}",
            f"name a data set with a feature of type {kind}{hint}",
        )
    images = [key for key, f in features.items() if type(f) is tfds.features.Image]
    skip = dict.fromkeys(images, tfds.decode.SkipDecoding())
    try:
        with foreign(name):
            records = builder.as_data_source(split, decoders=skip)
            len(records)
    except (Damaged, FileNotFoundError) as error:
        raise ConfigError(
            "config.data.name",
            name,
            f"cannot be read ({error})",
            "copy the set again, or prepare it again",
        ) from error
    label = features.get("label")
    classes = list(label.names) if type(label) is tfds.features.ClassLabel else None
    key = kind.lower() if kind.lower() in keys else keys[0]
    return records, features, key, classes


def root_of(dir: str) -> str:
    """Returns ``data.dir``, or TFDS's own variable TFDS_DATA_DIR; UserError if both are empty."""
    root = dir or require_local_path("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR", ""))
    if not root:
        raise ConfigError(
            "config.data.dir",
            "",
            "there is no such folder",
            "give the folder that holds the data sets prepared by TFDS, or set TFDS_DATA_DIR",
        )
    return root


def find_prepared(name: str, dir: str) -> epath.Path:
    """Returns the folder of a version of data set `name` below `dir`; UserError if missing."""
    from etils import epath

    root = epath.Path(dir).expanduser()
    if not root.is_dir():
        raise ConfigError(
            "config.data.dir",
            dir,
            "there is no such folder",
            "give the folder that holds the data sets prepared by TFDS",
        )
    base, _, version = name.partition(":")
    folder = root / base / version if version else root / base
    if base and (folder / _INFO).exists():
        return folder
    inner = folder.iterdir() if base and folder.is_dir() else ()
    versions = [path for path in inner if (path / _INFO).exists()]
    if versions:
        return max(versions, key=_version)
    prepared = _prepared(dir)
    near = difflib.get_close_matches(name, prepared, n=3, cutoff=0.5) or prepared
    raise ConfigError(
        "config.data.name",
        name,
        f"it is not prepared in --config.data.dir={dir}",
        f"try {_listed(near)}, or `jssl data prepare --name={name} --dir={dir}`",
    )


def _version(path: epath.Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in path.name.split(".")]


def _prepared(dir: str) -> list[str]:
    """Returns the names of the data sets below a folder: name/version or name/config/version."""
    from etils import epath

    root = epath.Path(dir).expanduser()
    infos = [path for level in ("*/*", "*/*/*") for path in root.glob(f"{level}/{_INFO}")]
    return sorted({path.parent.parent.relative_to(root).as_posix() for path in infos})


def _check_split(info: Any, name: str, split: str, dir: str) -> None:
    """Raises UserError if a split is unknown, not ArrayRecord, or misses a file."""
    try:
        files = [instruction.filename for instruction in info.splits[split].file_instructions]
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            "config.data.split",
            split,
            f"{name} has only {', '.join(info.splits)} ({str(error).splitlines()[0]})",
            "use one of these, or a slice such as train[:90%]",
        ) from error
    from etils import epath

    if info.file_format is None or info.file_format.value != "array_record":
        raise ConfigError(
            "config.data.name",
            name,
            f"it is prepared as {_format(info)}, which takes TensorFlow to read",
            f"convert it: jssl data prepare --name={name} --dir={dir}",
        )
    missing = [file for file in files if not epath.Path(file).exists()]
    if missing or not files:
        raise ConfigError(
            "config.data.split",
            split,
            f"{(missing[0] if missing else 'every file')} is missing",
            f"copy all files of {name} to data.dir, or prepare it again",
        )


def _format(info: Any) -> str:
    return info.file_format.value if info.file_format else "an unknown format"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:5]) or "another data.dir, this one holds none"
