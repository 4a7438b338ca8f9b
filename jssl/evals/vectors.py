"""A table of features on disk: written in parts, so that a stop loses one part, then joined.

``F.parts/`` beside the result holds the parts and ``about.json``, which says of which checkpoint
and data they are. The result has, for each readable example, its vector, its index, its name, and
its label if there are labels.
"""

import json
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.data import files

ABOUT = "about.json"
DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same table has the same bytes


class Rows:
    """The examples `start` to `stop` of a source, as a source (`jssl.data.source.Source`)."""

    def __init__(self, source: Any, start: int, stop: int) -> None:
        self.source = source
        self.start = start
        self.stop = stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns examples of the source."""
        return self.source.read(np.asarray(indices) + self.start)

    def describe(self, index: int) -> str:
        """Returns the name of an example of the source."""
        return self.source.describe(index + self.start)


class Parts:
    """The folder of the parts of one table.

    Attributes:
      folder: ``F.parts``.
    """

    def __init__(self, out: pathlib.Path, about: dict[str, Any]) -> None:
        """Opens the folder, or makes it.

        Raises:
          UserError: it holds parts of another checkpoint or other data.
        """
        self.folder = out.with_name(f"{out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ABOUT
        if path.exists() and files.read_json(path) != about:
            raise ConfigError(
                "out",
                out,
                f"{self.folder} holds parts of another checkpoint or of other data",
                "remove that folder, or choose another --out",
            )
        files.write_json(path, about)

    def path(self, number: int) -> pathlib.Path:
        """The file of a part."""
        return self.folder / f"{number:06d}.npz"

    def write(self, number: int, **arrays: np.ndarray) -> None:
        """Writes a part atomically."""
        temporary = self.folder / f".{number:06d}.npz"
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(self.path(number))

    def read(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields all parts in order."""
        for number in range(count):
            with np.load(self.path(number)) as arrays:
                yield dict(arrays)

    def remove(self) -> None:
        """Deletes the parts."""
        shutil.rmtree(self.folder)


def write_npz(out: pathlib.Path, parts: Parts, count: int, classes: Sequence[str] | None) -> int:
    """Joins the parts to one .npz, one part in memory at a time; returns the number of rows.

    Its arrays: features float32 [N, D], index int64 [N], name str [N]; with labels also label
    int32 [N], -1 for none, and classes str [C].
    """
    lengths = [len(part["index"]) for part in parts.read(count)]
    rows = sum(lengths)
    widths = [part["name"].dtype for part in parts.read(count) if len(part["index"])]
    first = next(parts.read(count))
    temporary = out.with_name(f".{out.name}.part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key in first:
            dtype = max(widths, key=lambda d: d.itemsize) if key == "name" else first[key].dtype
            shape = (rows, *first[key].shape[1:])
            with archive.open(member(key), "w", force_zip64=True) as file:
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)  # pyright: ignore[reportArgumentType]
                for part in parts.read(count):
                    file.write(np.ascontiguousarray(part[key].astype(dtype)).tobytes())
        if classes is not None:
            with archive.open(member("classes"), "w") as file:
                np.lib.format.write_array(file, np.array(classes, str), allow_pickle=False)
    temporary.replace(out)
    return rows


def member(key: str) -> zipfile.ZipInfo:
    """The entry of an array in an .npz."""
    return zipfile.ZipInfo(f"{key}.npy", DATE)


def write_parquet(
    out: pathlib.Path, parts: Parts, count: int, classes: Sequence[str] | None
) -> int:
    """Joins the parts to one Parquet file, a row group for each; returns the number of rows.

    Its columns: feature (a list of D floats), index, name; with labels also label and class.
    """
    import pyarrow
    import pyarrow.parquet

    rows = 0
    writer = None
    temporary = out.with_name(f".{out.name}.part")
    for part in parts.read(count):
        features = part["features"]
        flat = pyarrow.array(features.reshape(-1))
        columns = {
            "feature": pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1]),
            "index": pyarrow.array(part["index"]),
            "name": pyarrow.array(part["name"].tolist(), pyarrow.string()),
        }
        if classes is not None:
            names = [classes[label] if label >= 0 else None for label in part["label"]]
            columns |= {"label": pyarrow.array(part["label"])}
            columns |= {"class": pyarrow.array(names, pyarrow.string())}
        table = pyarrow.table(columns)
        writer = writer or pyarrow.parquet.ParquetWriter(temporary, table.schema)
        writer.write_table(table)
        rows += len(features)
    assert writer is not None, "a source has at least one example"
    writer.close()
    temporary.replace(out)
    return rows


WRITERS = {".npz": write_npz, ".parquet": write_parquet}


def check_out(out: str) -> pathlib.Path:
    """The path of the table; raises `UserError` for another ending, or a path that exists."""
    path = pathlib.Path(out).expanduser().absolute()
    if path.suffix not in WRITERS:
        raise ConfigError("out", out, "ends in neither .npz nor .parquet", "name it so")
    if path.exists():
        raise ConfigError("out", out, "exists already", "choose another name, or move it away")
    if not path.parent.is_dir():
        raise ConfigError("out", out, f"{path.parent} is no folder", "make it first")
    return path


def about(**facts: Any) -> dict[str, Any]:
    """Facts as they are after JSON, to be compared with stored ones."""
    try:
        return json.loads(json.dumps(facts))
    except TypeError as error:
        raise UserError(str(error)) from None
