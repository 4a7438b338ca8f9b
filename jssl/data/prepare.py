"""`jssl data prepare`: converts a data set of TFDS to ArrayRecord, which needs no TensorFlow.

A set that is prepared as TFRecord is converted, record by record. A set that is not prepared is
downloaded and prepared by TFDS. TFDS needs TensorFlow only to write PNG; here Pillow does that.
"""

import contextlib
import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.data.files import foreign, one_line, open_regular, read_json, write_json
from jssl.data.sources import tfds_source
from jssl.data.sources.tfds_trust import INFO, open_builder

log = logging.getLogger("jssl")
_RECORD = 2**30  # largest number of bytes of a record
_FORMAT = "array_record"
_NAME = re.compile(r"\w[\w/.+-]*(:\d+\.\d+\.\d+)?")


def prepare(name: str, dir: str) -> dict[str, Any]:
    """Makes the data set `name` readable in the folder `dir`.

    A set that exists as TFRecord keeps these files, and gets ArrayRecord files beside them.

    Returns:
      {"path": the folder of the set, "splits": {split: number of examples}}.

    Raises:
      UserError: a download or TFDS fails.
    """
    root = tfds_source.root_of(dir)
    os.makedirs(os.path.expanduser(root), exist_ok=True)
    try:
        folder = tfds_source.find_prepared(name, root)
    except UserError:
        _build(name, os.path.expanduser(root))
        folder = tfds_source.find_prepared(name, root)
    builder = open_builder(folder, name)
    if builder.info.file_format.value == "tfrecord":
        convert(os.fspath(folder), builder)
    elif builder.info.file_format.value != _FORMAT:
        raise ConfigError(
            "name",
            name,
            f"prepared as {builder.info.file_format.value}, which is not converted",
            "give an empty folder as --dir, so that it is prepared anew",
        )
    splits = {key: split.num_examples for key, split in builder.info.splits.items()}
    return {"path": os.fspath(folder), "splits": splits}


def convert(folder: str, builder: Any) -> None:
    """Writes ArrayRecord files beside the TFRecord files of a set, and updates its info.

    Args:
      folder: the folder of the prepared set.
      builder: TFDS's builder of it.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    for split in builder.info.splits.values():
        lengths = split.shard_lengths
        for path, length in zip(map(os.fspath, split.filepaths), lengths, strict=True):
            new = os.path.join(folder, os.path.basename(path).replace("tfrecord", _FORMAT))
            temporary = f"{new}.{os.getpid()}.part"
            try:
                writer = ArrayRecordWriter(temporary, "group_size:1")
                count = 0
                for record in _records(path):
                    writer.write(record)
                    count += 1
                writer.close()
                if count != length:
                    raise UserError(f"{path} holds {count} records, not {length}; copy it again")
                os.replace(temporary, new)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            log.info("%s: %d records", new, count)
    info = read_json(os.path.join(folder, INFO), follow=True)
    for split in info["splits"]:
        if "filepathTemplate" in split:
            split["filepathTemplate"] = split["filepathTemplate"].replace("tfrecord", _FORMAT)
    others = [name for name in info.get("alternativeFileFormats", []) if name != _FORMAT]
    info |= {"fileFormat": _FORMAT, "alternativeFileFormats": ["tfrecord", *others]}
    write_json(os.path.join(folder, INFO), info)


def _records(path: str) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    A record is stored as length uint64, its checksum, the bytes, their checksum.
    """
    with foreign(path), open_regular(path, follow=True) as file:
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else _RECORD + 1
            if length > _RECORD:
                raise UserError(f"{path} is no TFRecord file, or is damaged; copy it again")
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                raise UserError(f"{path} ends within a record; copy it again")
            yield record


def _build(name: str, root: str) -> None:
    """Downloads and prepares a set with the code of the installed TFDS."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if not _NAME.fullmatch(name):  # a namespace would fetch code: "kaggle:..."
        raise ConfigError("name", name, "no data set of TFDS", "use cifar10")
    downloader.MAX_RETRIES = 1  # ten retries take minutes without a network
    try:
        with _png_by_pillow():
            builder = tfds.builder(name, data_dir=root, file_format=_FORMAT, try_gcs=False)
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(
            "name",
            name,
            f"no data set of TFDS, and is not prepared in {root}",
            "its catalog lists the names",
        ) from None
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a download fails in many ways
        raise ConfigError(
            "name",
            name,
            f"could not be prepared ({one_line(error)})",
            f"check the network, or prepare it elsewhere and copy it to {root}",
        ) from error


@contextlib.contextmanager
def _png_by_pillow() -> Iterator[None]:
    """Encodes PNG by Pillow instead of TensorFlow while TFDS prepares a set. Both are lossless."""
    from PIL import Image
    from tensorflow_datasets.core.features import image_feature

    encoder = image_feature._ImageEncoder
    encode_by_tensorflow = encoder._encode_image

    def encode(self, np_image):
        if self.encoding_format != "png" or np_image.dtype != np.uint8 or np_image.shape[-1] == 2:
            return encode_by_tensorflow(self, np_image)
        image_feature._validate_np_array(np_image, shape=self.shape, dtype=self.np_dtype)
        gray = np_image.shape[-1] == 1
        file = io.BytesIO()
        Image.fromarray(np_image[..., 0] if gray else np_image).save(file, "PNG")
        return file.getvalue()

    encoder._encode_image = encode
    try:
        yield
    finally:
        encoder._encode_image = encode_by_tensorflow
