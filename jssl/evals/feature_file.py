"""Joins parts of features to one file, without holding all of them in memory."""

import importlib.util
import pathlib
import zipfile
from typing import IO, Any

import numpy as np

from jssl import errors
from jssl.config import ConfigError
from jssl.data import files
from jssl.evals.feature_parts import Parts, info_json

FORMATS = (".npz", ".parquet")
DATE = (1980, 1, 1, 0, 0, 0)  # of the members of an archive, so that equal content is equal bytes


def check(out: pathlib.Path) -> None:
    """Checks that a result can be written.

    Raises:
      UserError: an unknown format, a missing package or folder, or `out` exists.
    """
    if out.suffix not in FORMATS:
        raise ConfigError("out", out, "no .npz and no .parquet", "name it features.npz")
    if out.exists() or out.is_symlink():
        raise ConfigError("out", out, "exists already", "remove it, or choose another")
    if not out.absolute().parent.is_dir():
        raise ConfigError("out", out, "in a folder that does not exist", "make the folder first")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "out", out, "needs pyarrow", f"install it with: {errors.install('embed')}"
        )


def write(out: pathlib.Path, parts: Parts, classes: list[str] | None) -> dict[str, int]:
    """Writes the result atomically; returns {"examples", "dim"} of what was written."""
    with files.replacing(out) as file:
        if out.suffix == ".npz":
            return write_npz(file, parts, classes)
        return write_parquet(file, parts, classes)


def write_npz(file: IO[bytes], parts: Parts, classes: list[str] | None) -> dict[str, int]:
    """Writes features float32 [N, D], index int64 [N], name str [N], label int32 [N] (if there are
    labels), classes str [C] and info, a JSON text."""
    first = parts.read(0)
    members = [name for name in ("features", "index", "name", "label") if name in first]
    total = 0
    longest = 1  # characters of a name
    for number in range(len(parts.ranges)):
        names = parts.read(number, "name")["name"]
        total += len(names)
        longest = max(longest, names.dtype.itemsize // 4)
    dim = first["features"].shape[1]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in members:
            dtype = np.dtype(f"<U{longest}") if member == "name" else first[member].dtype
            shape = (total, dim) if member == "features" else (total,)
            with archive.open(zipfile.ZipInfo(f"{member}.npy", DATE), "w", force_zip64=True) as to:
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(to, header)
                for number in range(len(parts.ranges)):
                    to.write(parts.read(number, member)[member].astype(dtype).tobytes())
        texts: dict[str, Any] = {"info": np.array(info_json(parts, classes))}
        if classes is not None:
            texts["classes"] = np.array(classes, dtype=np.str_)
        for member, value in texts.items():
            with archive.open(zipfile.ZipInfo(f"{member}.npy", DATE), "w") as to:
                np.lib.format.write_array(to, value, allow_pickle=False)
    return {"examples": total, "dim": dim}


def write_parquet(file: IO[bytes], parts: Parts, classes: list[str] | None) -> dict[str, int]:
    """Writes a row group for each part: index, name, features, and label and class if there are
    labels. The metadata key "jssl" holds the JSON text `info_json`."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports] - an extra
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    first = parts.read(0)
    dim = first["features"].shape[1]
    fields = [
        pa.field("index", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("features", pa.list_(pa.float32(), dim)),
    ]
    if "label" in first:
        fields += [pa.field("label", pa.int32()), pa.field("class", pa.string())]
    schema = pa.schema(fields, metadata={"jssl": info_json(parts, classes)})
    total = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for number in range(len(parts.ranges)):
            part = parts.read(number)
            flat = pa.array(part["features"].reshape(-1))
            columns = [
                pa.array(part["index"]),
                pa.array(part["name"].tolist(), pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, dim),
            ]
            if "label" in first:
                labels = part["label"]
                columns.append(pa.array(labels, mask=labels < 0))
                names = [class_name(classes, label) for label in labels.tolist()]
                columns.append(pa.array(names, pa.string()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            total += len(part["index"])
    return {"examples": total, "dim": dim}


def class_name(classes: list[str] | None, label: int) -> str | None:
    """Returns the name of a class; None for no label."""
    return classes[label] if classes is not None and 0 <= label < len(classes) else None
