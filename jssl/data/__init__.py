"""Data: one protocol for every source, and one fixed order of examples for every run.

`jssl.data.source.Source` is the protocol. For n indices, a source of images returns

    image    uint8 [n, H, W, C]   the example at the top left of the canvas, and zeros elsewhere;
                                  uint16 if the files have more than 8 bits (`jssl.data.depth`):
                                  white is 65,535
    size     int32 [n, 2]         height and width of the example. If this height exceeds H, the
                                  example is turned to fit: its rows are columns of the canvas
    index    int32 [n]            index of the example, below len(source), the same in every run
    label    int32 [n]            only if there are classes; -1 means unlabeled
    damaged  int32 [n]            -1, or the index of the unreadable example that this example
                                  replaces (then the label is -1)

Instead of image and size, a source of text returns

    tokens   int32 [n, L]         token ids; `vocab` holds their number and the special ones
    segment  int32 [n, L]         0 at padding, else the document number in the row: 1, 2, ...
    word     int32 [n, L]         with `word_ids`: the number of the word in the row: 0, 1, ...

and has a `tokenizer` and a `vocab` (see `jssl.data.text.tokenizer`). `jssl.data.sampling` decides
which indices a step reads.
"""

import logging
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from jssl.config import ConfigError, call_with_section
from jssl.config.values import Count, NonNegative, Range, Share, Whole
from jssl.data import canvas as canvases
from jssl.data.source import Source
from jssl.data.sources.by_name import SourceOptions, open_source

if TYPE_CHECKING:
    from jssl.core import DatasetInfo

log = logging.getLogger("jssl")
DARK = 0.02  # fraction of the range; a mean closer than this to black or to white is suspect
AtLeastOne = Annotated[float, Range(1, 16)]


class DataConfig(NamedTuple):
    """A source, and how its examples reach the device.

    Attributes:
      source: the source of the examples.
      on_device: whether the whole data set lives on the device.
      workers: number of processes that read ahead; 0 means one thread.
      max_corrupt_fraction: fraction of the examples that may be unreadable
        (`jssl.data.loader.allowed_share`).
    """

    source: Source
    on_device: bool
    workers: int
    max_corrupt_fraction: float


def load(
    *,
    source: str,
    name: str,
    path: str,
    dir: str,
    split: str,
    max_side: Whole,
    channels: Count,
    on_device: bool,
    workers: Whole,
    max_corrupt_fraction: Share,
    tokenizer: str = "",
    seq_len: Whole = 0,
    pack_documents: bool = True,
    word_ids: bool = False,
    encoding: str = "",
    text_key: str = "text",
    aspect: AtLeastOne = canvases.ASPECT,
    exif: Literal["auto", "on", "off"] = "auto",
    max_value: NonNegative = 0.0,
) -> DataConfig:
    """Opens the data set that the config section `data` describes.

    Args:
      source: type of the data: "digits", "tfds", "folder", "packed", "text", "pydoc", or your own.
        "pydoc" is the text of Python's own help. A dotted name is a module outside jssl
        (`jssl.data.sources.outside`).
      name: name of the data set, for tfds.
      path: folder of images, packed data or text; for text also a file or a pattern.
      dir: folder in which TFDS prepared the data set, for tfds.
      split: part of the data set: "train", "test", or a slice such as "train[:90%]".
      max_side: limit of the shorter side of an image, in pixels; 0 for text. Larger images are
        shrunk to it. Larger packed images are refused.
      channels: channels of an image: 3 (RGB) or 1 (gray). packed: the number that was packed.
      on_device: keep the whole data set in the memory of every device. It must fit there.
      workers: processes that read and decode ahead, at most one per core; 0: one thread.
      max_corrupt_fraction: share of unreadable examples above which the run stops. In sets of
        fewer than 100 examples half may be unreadable, unless this is 0.
      tokenizer: tokenizer of text: "bytes", or the path of a tokenizer.json. It may stay empty for
        packed text.
      seq_len: tokens in a row of text; 0 for images.
      pack_documents: join documents and cut them into rows; False: one document per row.
      word_ids: rows of text hold the word number of each token, for whole-word masking.
      encoding: encoding of text files, such as "latin-1"; empty: detected. If empty, the byte order
        mark or NULs decide, else it is UTF-8.
      text_key: key of the text in a line of JSON, for text files.
      aspect: limit of the longer side of an image, as a multiple of max_side. A longer image is
        cropped at both ends. Memory grows with `aspect` (`jssl.data.canvas`).
      exif: turn images by their EXIF orientation; "auto": only those of a folder.
      max_value: pixel value that is white; 0: 255, or inferred for images of more than 8 bits. The
        inferred value is stored with the run (`jssl.data.depth`).

    Raises:
      UserError: a key has a wrong value, or the data cannot be used.
    """
    if workers < 0:
        raise ConfigError("config.data.workers", workers, "must not be negative", "use 0 or more")
    if not 0 <= max_corrupt_fraction <= 1:
        raise ConfigError(
            "config.data.max_corrupt_fraction",
            max_corrupt_fraction,
            "must be a fraction from 0 to 1",
            "use 0.01",
        )
    options = SourceOptions(
        source=source,
        name=name,
        path=path,
        dir=dir,
        split=split,
        max_side=max_side,
        channels=channels,
        tokenizer=tokenizer,
        seq_len=seq_len,
        pack_documents=pack_documents,
        word_ids=word_ids,
        encoding=encoding,
        text_key=text_key,
        max_corrupt_fraction=max_corrupt_fraction,
        aspect=aspect,
        exif=exif,
        max_value=max_value,
    )
    opened = open_source(options)
    if opened.modality == "image":
        check_range(opened, f"--config.data.source={source!r}")
    cores = os.cpu_count() or 1
    if workers > cores:  # the order of the data does not depend on it
        log.info("--config.data.workers=%d: only %d are started, one a core", workers, cores)
    return DataConfig(opened, on_device, min(workers, cores), max_corrupt_fraction)


def load_again(section: Any, info: "DatasetInfo | None") -> DataConfig:
    """Calls `load` with the config section `data` and the facts that the run stored of its data.

    Args:
      section: the section, a `Config`, a ConfigDict or a dict.
      info: the stored `DatasetInfo`; None for a new run.
    """
    section = dict(section)
    if info is not None and not section["max_value"]:
        section["max_value"] = info.max_value
    return call_with_section(load, section, "data")


def check_range(source: Source, config_key: str, count: int = 32) -> None:
    """Warns if the pixels of a source are nearly all black or nearly all white.

    Args:
      source: a source of images.
      config_key: the key and the value that the message names.
      count: number of images to read, evenly spaced over the source.
    """
    rows = np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64)
    batch = source.read(rows)
    full = np.iinfo(batch["image"].dtype).max
    images = map(canvases.unpadded, batch["image"], batch["size"])
    mean = float(np.mean([image.mean() / full for image in images]))
    if not DARK <= mean <= 1 - DARK:
        log.warning(
            "%s (%s): the mean of %d images is %.1f %% of the range; are they %s? If not, set "
            "--config.data.max_value to the value of a white pixel (the largest here is %.4g)",
            config_key,
            source.name,
            len(rows),
            100 * mean,
            "black" if mean < DARK else "white",
            batch["image"].max() / full * (getattr(source, "max_value", 0) or 255),
        )
