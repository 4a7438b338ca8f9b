"""Data sets that TensorFlow Datasets has prepared as ArrayRecord, read without TensorFlow.

The directory on disk says all (features.json, dataset_info.json), so TFDS is asked to read that and
never to look a name up, prepare or download: no network is touched.
"""

import difflib
import functools
import os

import numpy as np

from jssl.config import UserError, require_local_path
from jssl.data import canvas as canvases
from jssl.data import depth, fingerprint
from jssl.data.decode import Pixels, Unreadable, assemble, look
from jssl.data.files import Damaged, foreign, one_line
from jssl.data.source import image_fields
from jssl.data.sources.tfds_trust import INFO as _INFO
from jssl.data.sources.tfds_trust import open_builder


class TfdsImages:
    """A source over the records of a TFDS split; see `open_tfds`.

    `records` is TFDS's own random-access source. It pickles to a few kB, and opens its files in
    each process when it is first read.
    """

    modality = "image"

    def __init__(self, name, blame, records, image_key, pixels, classes):
        self.name = name
        self.pixels = pixels
        self.classes = classes
        self.max_value = pixels.white
        self._blame = blame
        self._records = records
        self._image_key = image_key

    def __len__(self):
        return len(self._records)

    @property
    def fields(self):
        """See `jssl.data.source.Source`."""
        return image_fields(self.pixels.canvas, self.pixels.dtype, self.classes is not None)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the files of the split: names, sizes, and which records of each."""
        info = self._records.dataset_info
        files = info.splits[self._records.split].file_instructions
        return fingerprint.of_records(files, info.full_name)

    def describe(self, index: int) -> str:
        return f"{self.name} record {index}"

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`; see `decode.assemble` for keys, shapes and substitutes."""
        indices = np.asarray(indices)
        fetched = self._fetch(indices)
        return assemble(
            indices,
            lambda index: self._load(index, fetched),
            len(self),
            self.pixels,
            self.classes is not None,
            self._blame,
        )

    def _fetch(self, indices):
        """Many records at one go, several times quicker than one by one."""
        wanted = np.unique(indices).tolist()
        try:
            return dict(zip(wanted, self._records.__getitems__(wanted), strict=True))
        except Exception:  # noqa: BLE001 - one damaged record fails all: try each alone
            return {}

    def _load(self, index, fetched):
        record = fetched.get(index) or self._one(index)
        image, valid = self.pixels(record[self._image_key])
        return image, valid, -1 if self.classes is None else record["label"]

    def _one(self, index):
        try:
            with foreign(self.describe(index)):
                return self._records[index]
        except Damaged as error:  # and not Unreachable: it may be read another time
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
    """The source over `split` of data set `name` ("cifar10", "imagenette/160px-v2", with ":3.0.2"
    for one version, else the newest) as prepared below `dir`.

    The split may be any of TFDS's, as "train[:90%]" or "train+test". Where all images have one
    known size, the canvas is only as large as they need. Labels are those of a ClassLabel feature
    "label". See `jssl.data.load` for `canvas`, `channels`, `aspect` and `max_value`; `exif` says
    whether EXIF orientation is applied. Raises UserError for what is missing, unknown, or has no
    image.
    """
    records, features, key, classes = _open(name, dir, split, "Image")
    shape = canvases.canvas_of(canvas, aspect)
    known = features[key].shape[:2]
    if None not in known:
        height, width = canvases.fitted(*known, shape)
        shape = (min(height, width), max(height, width))
    blame = f"data.name={name}"
    white = max_value or _white(records, features[key], key, blame)
    pixels = Pixels(canvas, (*shape, channels), exif, 0.0 if white == 255 else white)
    return TfdsImages(f"{name} {split}", blame, records, key, pixels, classes)


def _white(records, feature, key, blame):
    """What value is white in a set of 16-bit images; 0 for one of 8 bits."""
    kind = np.dtype(feature.np_dtype)
    if kind == np.uint8:
        return 0.0
    if kind != np.uint16:
        raise UserError(
            f"{blame} is wrong because its images are {kind}; name a set of uint8 or uint16 images"
        )
    rows = np.linspace(0, len(records) - 1, min(len(records), depth.SAMPLE)).astype(int)
    found = (look(record[key]) for record in records.__getitems__(rows.tolist()))
    return depth.find_white(found, blame)


def open_text(name: str, dir: str, split: str):
    """(records, the key of their text, names of the labels or None) of a set as in `open_tfds`:
    the Text feature "text", or else the first that is no "id"."""
    records, _, key, classes = _open(name, dir, split, "Text")
    return records, key, classes


def _open(name, dir, split, kind):
    """(records, features, key, classes): `key` is the feature of type `kind` that is read."""
    import tensorflow_datasets as tfds  # takes a second

    root = root_of(dir)
    builder = open_builder(find_prepared(name, root), name)
    _check_split(builder.info, name, split, root)
    features = dict(sorted(builder.info.features.items()))
    wanted = getattr(tfds.features, kind)
    keys = [key for key, f in features.items() if type(f) is wanted and key != "id"]
    if not keys:
        hint = ", or set data.seq_len for its text" if "text" in features else ""
        raise UserError(
            f"data.name={name} is wrong because it has no {kind.lower()}, only "
            f"{', '.join(features)}; name a data set with a feature of type {kind}{hint}"
        )
    images = [key for key, f in features.items() if type(f) is tfds.features.Image]
    skip = dict.fromkeys(images, tfds.decode.SkipDecoding())
    try:
        with foreign(name):
            records = builder.as_data_source(split, decoders=skip)
            len(records)
    except (Damaged, FileNotFoundError) as error:
        raise UserError(
            f"data.name={name} cannot be read ({error}); copy the set again, or prepare it again"
        ) from error
    label = features.get("label")
    classes = list(label.names) if type(label) is tfds.features.ClassLabel else None
    key = kind.lower() if kind.lower() in keys else keys[0]
    return records, features, key, classes


def root_of(dir: str) -> str:
    """``data.dir``, or where it is empty, TFDS's own variable TFDS_DATA_DIR. UserError for none."""
    root = dir or require_local_path("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR", ""))
    if not root:
        raise UserError(
            "data.dir='' is wrong because there is no such folder; give the folder that holds the "
            "data sets prepared by TFDS, or set TFDS_DATA_DIR"
        )
    return root


def find_prepared(name: str, dir: str):
    """The folder of a version of data set `name` below `dir`. UserError if there is none."""
    from etils import epath

    root = epath.Path(dir).expanduser()
    if not root.is_dir():
        raise UserError(
            f"data.dir={dir!r} is wrong because there is no such folder; "
            "give the folder that holds the data sets prepared by TFDS"
        )
    base, _, version = name.partition(":")
    folder = root / base / version if version else root / base
    if base and (folder / _INFO).exists():
        return folder
    inner = folder.iterdir() if base and folder.is_dir() else ()
    versions = [path for path in inner if (path / _INFO).exists()]
    if versions:
        return max(versions, key=_version)
    known = _prepared(dir)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    raise UserError(
        f"data.name={name!r} is wrong because it is not prepared in data.dir={dir}; "
        f"try {_listed(near)}, or `jssl data prepare --name={name} --dir={dir}`"
    )


def _version(path):
    return [int(part) if part.isdigit() else -1 for part in path.name.split(".")]


def _prepared(dir):
    """Names of the data sets below a folder: name/version or name/config/version."""
    from etils import epath

    root = epath.Path(dir).expanduser()
    found = [path for depth in ("*/*", "*/*/*") for path in root.glob(f"{depth}/{_INFO}")]
    return sorted({path.parent.parent.relative_to(root).as_posix() for path in found})


def _check_split(info, name, split, dir):
    try:
        files = [part.filename for part in info.splits[split].file_instructions]
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"data.split={split} is wrong because {name} has only {', '.join(info.splits)} "
            f"({str(error).splitlines()[0]}); use one of these, or a slice such as train[:90%]"
        ) from error
    from etils import epath

    if info.file_format is None or info.file_format.value != "array_record":
        raise UserError(
            f"data.name={name} is wrong because it is prepared as {_format(info)}, which takes "
            f"TensorFlow to read; convert it: jssl data prepare --name={name} --dir={dir}"
        )
    missing = [file for file in files if not epath.Path(file).exists()]
    if missing or not files:
        raise UserError(
            f"data.split={split} is wrong because {missing[0] if missing else 'every file'} is "
            f"missing; copy all files of {name} to data.dir, or prepare it again"
        )


def _format(info):
    return info.file_format.value if info.file_format else "an unknown format"


def _listed(names):
    return ", ".join(list(names)[:5]) or "another data.dir, this one holds none"
