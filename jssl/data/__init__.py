"""Data: one interface for every source, and one order law for every run.

`jssl.data.source.Source` is the protocol. A source of images returns for n indices

    image    uint8 [n, H, W, C]   the example at the top-left of the canvas, zero elsewhere; uint16
                                  if the files have more than 8 bits (`dtype`): white is 65,535
    size     int32 [n, 2]         its height and width. If this height exceeds H, the example was
                                  turned to fit: its rows are columns of the canvas
    index    int32 [n]            which example it is, below len(source), the same in every run
    label    int32 [n]            only if there are classes; -1 means unlabelled
    damaged  int32 [n]            -1, or the unreadable example that another one stands in for (then
                                  the label is -1)

A source of text returns instead of image and size

    tokens   int32 [n, L]         ids, of which `vocab` says how many there are and which is special
    segment  int32 [n, L]         0 at padding, else which document of the row it is: 1, 2, ...
    word     int32 [n, L]         if asked for: which word of the row a token is in: 0, 1, ...

and has a `tokenizer` and a `vocab` (see `jssl.data.text.tokenizer`). `jssl.data.sampling`
says which indices a step reads.
"""

import logging
import os
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from jssl.config import UserError, call_with_section, require_local_path, suggest
from jssl.config.values import Count, NonNegative, Range, Share, Whole
from jssl.data import canvas as canvases
from jssl.data.sampling import split_name

log = logging.getLogger("jssl")
DARK = 0.02  # share of the range; images whose mean is below it, or so near to white, are suspect
AtLeastOne = Annotated[float, Range(1, 16)]


class DataConfig(NamedTuple):
    """A source and how to carry it to the device."""

    source: Any
    on_device: bool  # the whole data set lives on the device
    workers: int  # processes that read ahead; 0: a thread
    max_corrupt_fraction: float  # of the examples; see `loader.allowed_share`


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
    """Opens what the config's section `data` names. Raises UserError for any wrong key.

    source       digits | tfds | folder | packed | text | pydoc (Python's own help)
    name, dir    tfds: the data set, and the folder in which TFDS prepared it
    path         folder, packed: the folder; text: a file, a folder or a pattern of files
    split        "train", "test", or a slice such as "train[:90%]"
    max_side     shorter side that an image keeps, in pixels; larger ones are shrunk to it
    aspect       longer side that an image keeps, in shorter sides of the canvas: what exceeds it is
                 cut off at both ends; memory grows with it (`jssl.data.canvas`)
    exif         whether images are turned as their EXIF says; "auto": those of a folder
    max_value    the pixel that is white; 0: 255, and for images of more than 8 bits it is found,
                 and stored with the run (`jssl.data.depth`)
    channels     3 (RGB) or 1 (grey); packed: as many as were packed on_device    keep the whole
    data set on the device, for data sets that fit there workers      processes that read and decode
    ahead, at most one a core; 0: one thread max_corrupt_fraction share of unreadable examples above
    which the run stops, 0 to 1; of fewer than 100
                 examples half may be unreadable, unless it is 0
    encoding     text files: "": by their byte order mark or NULs, else UTF-8; or "latin-1", ...
    text_key     text files: where in a line of JSON the text is
    seq_len      tokens of a row of text; 0: images
    tokenizer    text: "bytes", or a tokenizer.json; packed: may be left empty
    pack_documents  text: documents are joined and cut into rows; False: one document a row
    word_ids     text: rows say which word a token is in, for whole-word masking
    """
    if workers < 0:
        raise UserError(f"data.workers={workers} is wrong because it is negative; use 0 or more")
    if not 0 <= max_corrupt_fraction <= 1:
        raise UserError(
            f"data.max_corrupt_fraction={max_corrupt_fraction} is wrong because it is a fraction; "
            "use 0.01"
        )
    opened = open_source(
        source=source,
        name=name,
        path=path,
        dir=dir,
        split=split,
        canvas=max_side,
        channels=channels,
        tokenizer=tokenizer,
        length=seq_len,
        pack=pack_documents,
        words=word_ids,
        encoding=encoding,
        text_key=text_key,
        max_damaged=max_corrupt_fraction,
        aspect=aspect,
        exif=exif,
        max_value=max_value,
    )
    if opened.modality == "image":
        check_range(opened, f"data.source={source}")
    cores = os.cpu_count() or 1
    if workers > cores:  # the order of the data does not depend on it
        log.info("data.workers=%d: only %d are started, one a core", workers, cores)
    return DataConfig(opened, on_device, min(workers, cores), max_corrupt_fraction)


def load_again(section, info: Any) -> DataConfig:
    """`load` of the config's section `data`, with what the run has found in its data before."""
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
    canvas: int,
    channels: int,
    tokenizer: str = "",
    length: int = 0,
    pack: bool = True,
    words: bool = False,
    encoding: str = "",
    text_key: str = "text",
    max_damaged: float = 0.01,
    aspect: float = canvases.ASPECT,
    exif: str = "auto",
    max_value: float = 0.0,
):
    """Only the source of `load`, for evaluations and tools."""
    from jssl.data.text import corpora

    known = (*_OPEN, "text", "pydoc")
    dir = require_local_path("data.dir", dir)
    path = require_local_path("data.path", path)
    if source not in known:
        raise UserError(f"data.source={source!r} is unknown; {suggest(source, known)}")
    corpora.refuse(source, encoding, text_key)
    if source in ("text", "pydoc") or length:
        reading = {"encoding": encoding, "text_key": text_key, "max_corrupt_fraction": max_damaged}
        return _text(source, name, path, dir, split, tokenizer, length, pack, words, reading)
    if tokenizer:
        raise UserError(
            f"data.tokenizer={tokenizer} is for text; set data.seq_len, or leave it out"
        )
    if canvas < 1:
        raise UserError(f"data.max_side={canvas} is wrong because it is no size; use 32 or 256")
    if channels not in (1, 3) and source in ("tfds", "folder"):
        raise UserError(f"data.channels={channels} is wrong; use 3 (RGB) or 1 (grey)")
    if source in ("tfds", "folder"):
        turn = source == "folder" if exif == "auto" else exif == "on"
        files = dict(aspect=aspect, exif=turn, max_value=max_value)
        return _FILES[source](name, path, dir, split, canvas, channels, **files)
    return _OPEN[source](name, path, dir, split, canvas, channels)


def check_range(source, blame: str, count: int = 32) -> None:
    """Warns if the pixels of a source are nearly all black or nearly all white.

    Args:
        source: A source of images; so many of them, spread over all, are read.
        blame: The key and value that the message names.
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
            "data.max_value to the value of a white pixel (the largest here is %.4g)",
            blame,
            source.name,
            len(rows),
            100 * mean,
            "black" if mean < DARK else "white",
            batch["image"].max() / full * (getattr(source, "max_value", 0) or 255),
        )


def _text(source, name, path, dir, split, tokenizer, length, pack, words, reading):
    from jssl.data.sources import packed
    from jssl.data.text import corpora, packing, text_source
    from jssl.data.text import tokenizer as tokenizers

    if length < 3:
        raise UserError(f"data.seq_len={length} is wrong because a row of text needs 3; use 128")
    if source == "packed":
        folder = packed.locate(path, split)
        if not text_source.is_tokens(folder):
            raise UserError(f"data.seq_len={length} is for text, and {folder} holds images; use 0")
        return text_source.open_tokens(folder, split, tokenizer, length, pack, words)
    if source not in corpora.TEXT:
        raise UserError(f"data.seq_len={length} is for text, and {source} holds images; use 0")
    corpus = corpora.open_corpus(
        source=source, name=name, path=path, dir=dir, split=split, **reading
    )
    return packing.load_in_memory(corpus, tokenizers.load(tokenizer), length, pack, words)


def _digits(name, path, dir, split, canvas, channels):
    from jssl.data.sources import digits, packed

    wanted = split_name(split)
    if wanted not in ("train", "test"):
        raise UserError(f"data.split={split} is wrong because digits has none; use train or test")
    images, labels = digits.load(wanted)
    return _fits(packed.arrays(images, labels, "digits", split), canvas, channels)


def _tfds(name, path, dir, split, canvas, channels, **files):
    from jssl.data.sources import tfds_source

    return tfds_source.open_tfds(name, dir, split, canvas, channels, **files)


def _folder(name, path, dir, split, canvas, channels, **files):
    from jssl.data.sources import folder

    return folder.open_folder(path, split, canvas, channels, **files)


def _packed(name, path, dir, split, canvas, channels):
    from jssl.data.sources import packed
    from jssl.data.text import text_source

    folder = packed.locate(path, split)
    if text_source.is_tokens(folder):
        raise UserError(f"data.seq_len=0 is for images, and {folder} holds text; use 128")
    return _fits(packed.open_packed(path, split), canvas, channels)


def _fits(source, canvas, channels):
    """Arrays are stored on a canvas already, and are neither shrunk nor recoloured."""
    height, width, stored_channels = source.fields["image"].shape
    stored = min(height, width)
    if stored > canvas:
        raise UserError(
            f"data.max_side={canvas} is wrong because {source.name} is stored at {stored} pixels; "
            f"use data.max_side={stored}, or pack it again"
        )
    if stored_channels != channels:
        raise UserError(
            f"data.channels={channels} is wrong because {source.name} is stored with "
            f"{stored_channels}; use data.channels={stored_channels}, or pack it again"
        )
    return source


_FILES = {"tfds": _tfds, "folder": _folder}
_OPEN = _FILES | {"digits": _digits, "packed": _packed}
