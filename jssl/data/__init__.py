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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from jssl.config import (
    ConfigError,
    call_with_section,
    plugins,
    require_local_path,
    suggest,
)
from jssl.config.values import Count, NonNegative, Range, Share, Whole
from jssl.data import canvas as canvases
from jssl.data.sampling import split_name
from jssl.data.source import Source
from jssl.data.sources.outside import open_outside

if TYPE_CHECKING:
    from jssl.core import DatasetInfo
    from jssl.data.sources.packed import ArrayImages
    from jssl.data.text.text_source import Tokens

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
    opened = open_source(
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


def open_source(
    *,
    source: str,
    name: str,
    path: str,
    dir: str,
    split: str,
    max_side: int,
    channels: int,
    tokenizer: str = "",
    seq_len: int = 0,
    pack_documents: bool = True,
    word_ids: bool = False,
    encoding: str = "",
    text_key: str = "text",
    max_corrupt_fraction: float = 0.01,
    aspect: float = canvases.ASPECT,
    exif: str = "auto",
    max_value: float = 0.0,
) -> Source:
    """Opens only the source of `load`, for evaluations and tools. See `load` for the arguments."""
    from jssl.data.text import corpora

    dir = require_local_path("data.dir", dir)
    path = require_local_path("data.path", path)
    if plugins.is_outside(source):
        section = dict(
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
            aspect=aspect,
        )
        return open_outside(source, section)
    if source not in SOURCES:
        raise ConfigError("config.data.source", source, "unknown", suggest(source, SOURCES))
    corpora.refuse(source, encoding, text_key)
    if source in ("text", "pydoc") or seq_len:
        reading = {
            "encoding": encoding,
            "text_key": text_key,
            "max_corrupt_fraction": max_corrupt_fraction,
        }
        return _text(
            source, name, path, dir, split, tokenizer, seq_len, pack_documents, word_ids, reading
        )
    if tokenizer:
        raise ConfigError(
            "config.data.tokenizer",
            tokenizer,
            "for text",
            "set --config.data.seq_len, or leave it out",
        )
    if max_side < 1:
        raise ConfigError("config.data.max_side", max_side, "must be at least 1", "use 32 or 256")
    if channels not in (1, 3) and source in ("tfds", "folder"):
        raise ConfigError(
            "config.data.channels", channels, "must be 3 or 1", "use 3 (RGB) or 1 (gray)"
        )
    if source in ("tfds", "folder"):
        turn = source == "folder" if exif == "auto" else exif == "on"
        files = dict(aspect=aspect, exif=turn, max_value=max_value)
        return _FILES[source](name, path, dir, split, max_side, channels, **files)
    return _OPEN[source](name, path, dir, split, max_side, channels)


def check_range(source: Source, config_key: str, count: int = 32) -> None:
    """Warns if the pixels of a source are nearly all black or nearly all white.

    Args:
      source: a source of images.
      config_key: the key and the value that the message names.
      count: number of images to read, evenly spaced over the source.
    """
    rows = np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64)
    batch = source.read(rows)
    height, width = batch["image"].shape[1:3]
    full = np.iinfo(batch["image"].dtype).max
    means = []
    for image, (high, wide) in zip(batch["image"], batch["size"], strict=True):
        high, wide = (wide, high) if high > height else (high, wide)
        means.append(image[:high, :wide].mean() / full)
    mean = float(np.mean(means))
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


def _text(
    source: str,
    name: str,
    path: str,
    dir: str,
    split: str,
    tokenizer: str,
    seq_len: int,
    pack_documents: bool,
    word_ids: bool,
    reading: dict[str, Any],
) -> "Tokens":
    """Opens rows of text. `reading` holds the keys that only text files have."""
    from jssl.data.sources import packed
    from jssl.data.text import corpora, packing, text_source
    from jssl.data.text import tokenizer as tokenizers

    if seq_len < 3:
        raise ConfigError("config.data.seq_len", seq_len, "a row of text needs 3", "use 128")
    if source == "packed":
        folder = packed.locate(path, split)
        if not text_source.is_tokens(folder):
            raise ConfigError(
                "config.data.seq_len", seq_len, f"for text, and {folder} holds images", "use 0"
            )
        return text_source.open_tokens(folder, split, tokenizer, seq_len, pack_documents, word_ids)
    if source not in corpora.TEXT:
        raise ConfigError(
            "config.data.seq_len", seq_len, f"for text, and {source} holds images", "use 0"
        )
    corpus = corpora.open_corpus(
        source=source, name=name, path=path, dir=dir, split=split, **reading
    )
    return packing.load_in_memory(
        corpus, tokenizers.load(tokenizer), seq_len, pack_documents, word_ids
    )


def _digits(name: str, path: str, dir: str, split: str, max_side: int, channels: int) -> Source:
    from jssl.data.sources import digits, packed

    base = split_name(split)
    if base not in ("train", "test"):
        raise ConfigError("config.data.split", split, "digits has none", "use train or test")
    images, labels = digits.load(base)
    return _fits(packed.arrays(images, labels, "digits", split), max_side, channels)


def _tfds(
    name: str, path: str, dir: str, split: str, max_side: int, channels: int, **files: Any
) -> Source:
    from jssl.data.sources import tfds_source

    return tfds_source.open_tfds(name, dir, split, max_side, channels, **files)


def _folder(
    name: str, path: str, dir: str, split: str, max_side: int, channels: int, **files: Any
) -> Source:
    from jssl.data.sources import folder

    return folder.open_folder(path, split, max_side, channels, **files)


def _packed(name: str, path: str, dir: str, split: str, max_side: int, channels: int) -> Source:
    from jssl.data.sources import packed
    from jssl.data.text import text_source

    folder = packed.locate(path, split)
    if text_source.is_tokens(folder):
        raise ConfigError(
            "config.data.seq_len", 0, f"for images, and {folder} holds text", "use 128"
        )
    return _fits(packed.open_packed(path, split), max_side, channels)


def _fits(source: "ArrayImages", max_side: int, channels: int) -> "ArrayImages":
    """Returns `source` if its images fit the config.

    Arrays are already stored on a canvas. They are neither shrunk nor converted to other channels.

    Raises:
      UserError: the stored images are larger, or have another number of channels.
    """
    height, width, stored_channels = source.fields["image"].shape
    stored = min(height, width)
    if stored > max_side:
        raise ConfigError(
            "config.data.max_side",
            max_side,
            f"{source.name} is stored at {stored} pixels",
            f"use --config.data.max_side={stored}, or pack it again",
        )
    if stored_channels != channels:
        raise ConfigError(
            "config.data.channels",
            channels,
            f"{source.name} is stored with {stored_channels}",
            f"use --config.data.channels={stored_channels}, or pack it again",
        )
    return source


_FILES: Mapping[str, Callable[..., Source]] = {"tfds": _tfds, "folder": _folder}
_OPEN: Mapping[str, Callable[..., Source]] = dict(_FILES) | {"digits": _digits, "packed": _packed}
SOURCES = (*_OPEN, "text", "pydoc")
