"""Opens the source that ``config.data.source`` names."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jssl.config import ConfigError, plugins, require_local_path, suggest
from jssl.data.sampling import split_name
from jssl.data.source import Source
from jssl.data.sources.outside import open_outside

if TYPE_CHECKING:
    from jssl.data.sources.packed import ArrayImages
    from jssl.data.text.text_source import Tokens


class SourceOptions(NamedTuple):
    """The keys of ``config.data`` that describe a source. See `jssl.data.load`."""

    source: str
    name: str
    path: str
    dir: str
    split: str
    max_side: int
    channels: int
    tokenizer: str
    seq_len: int
    pack_documents: bool
    word_ids: bool
    encoding: str
    text_key: str
    max_corrupt_fraction: float
    aspect: float
    exif: str
    max_value: float


def open_source(options: SourceOptions) -> Source:
    """Opens a source.

    Raises:
      UserError: an option has a wrong value, or the data cannot be used.
    """
    from jssl.data.text import corpora

    source = options.source
    options = options._replace(
        dir=require_local_path("data.dir", options.dir),
        path=require_local_path("data.path", options.path),
    )
    if plugins.is_outside(source):
        return open_outside(source, options._asdict())
    if source not in SOURCES:
        raise ConfigError("config.data.source", source, "unknown", suggest(source, SOURCES))
    corpora.refuse(source, options.encoding, options.text_key)
    if source in ("text", "pydoc") or options.seq_len:
        return _text(options)
    if options.tokenizer:
        raise ConfigError(
            "config.data.tokenizer",
            options.tokenizer,
            "for text",
            "set --config.data.seq_len, or leave it out",
        )
    if options.max_side < 1:
        raise ConfigError(
            "config.data.max_side", options.max_side, "must be at least 1", "use 32 or 256"
        )
    if options.channels not in (1, 3) and source in ("tfds", "folder"):
        raise ConfigError(
            "config.data.channels", options.channels, "must be 3 or 1", "use 3 (RGB) or 1 (gray)"
        )
    return _IMAGES[source](options)


def _text(options: SourceOptions) -> "Tokens":
    from jssl.data.sources import packed
    from jssl.data.text import corpora, packing, text_source
    from jssl.data.text import tokenizer as tokenizers

    seq_len = options.seq_len
    if seq_len < 3:
        raise ConfigError("config.data.seq_len", seq_len, "a row of text needs 3", "use 128")
    rows = (seq_len, options.pack_documents, options.word_ids)
    if options.source == "packed":
        folder = packed.locate(options.path, options.split)
        if not text_source.is_tokens(folder):
            raise ConfigError(
                "config.data.seq_len", seq_len, f"for text, and {folder} holds images", "use 0"
            )
        return text_source.open_tokens(folder, options.split, options.tokenizer, *rows)
    if options.source not in corpora.TEXT:
        raise ConfigError(
            "config.data.seq_len", seq_len, f"for text, and {options.source} holds images", "use 0"
        )
    corpus = corpora.open_corpus(
        source=options.source,
        name=options.name,
        path=options.path,
        dir=options.dir,
        split=options.split,
        encoding=options.encoding,
        text_key=options.text_key,
        max_corrupt_fraction=options.max_corrupt_fraction,
    )
    return packing.load_in_memory(corpus, tokenizers.load(options.tokenizer), *rows)


def _digits(options: SourceOptions) -> Source:
    from jssl.data.sources import digits, packed

    base = split_name(options.split)
    if base not in ("train", "test"):
        raise ConfigError(
            "config.data.split", options.split, "digits has none", "use train or test"
        )
    images, labels = digits.load(base)
    return _require_fit(packed.arrays(images, labels, "digits", options.split), options)


def _tfds(options: SourceOptions) -> Source:
    from jssl.data.sources import tfds_source

    return tfds_source.open_tfds(
        options.name,
        options.dir,
        options.split,
        options.max_side,
        options.channels,
        aspect=options.aspect,
        exif=options.exif == "on",
        max_value=options.max_value,
    )


def _folder(options: SourceOptions) -> Source:
    from jssl.data.sources import folder

    return folder.open_folder(
        options.path,
        options.split,
        options.max_side,
        options.channels,
        aspect=options.aspect,
        exif=options.exif != "off",
        max_value=options.max_value,
    )


def _packed(options: SourceOptions) -> Source:
    from jssl.data.sources import packed
    from jssl.data.text import text_source

    folder = packed.locate(options.path, options.split)
    if text_source.is_tokens(folder):
        raise ConfigError(
            "config.data.seq_len", 0, f"for images, and {folder} holds text", "use 128"
        )
    return _require_fit(packed.open_packed(options.path, options.split), options)


def _require_fit(source: "ArrayImages", options: SourceOptions) -> "ArrayImages":
    """Returns `source` if its images fit the options.

    Arrays are already stored on a canvas. They are neither shrunk nor converted to other channels.

    Raises:
      UserError: the stored images are larger, or have another number of channels.
    """
    height, width, stored_channels = source.fields["image"].shape
    stored = min(height, width)
    if stored > options.max_side:
        raise ConfigError(
            "config.data.max_side",
            options.max_side,
            f"{source.name} is stored at {stored} pixels",
            f"use --config.data.max_side={stored}, or pack it again",
        )
    if stored_channels != options.channels:
        raise ConfigError(
            "config.data.channels",
            options.channels,
            f"{source.name} is stored with {stored_channels}",
            f"use --config.data.channels={stored_channels}, or pack it again",
        )
    return source


_IMAGES: Mapping[str, Callable[[SourceOptions], Source]] = {
    "tfds": _tfds,
    "folder": _folder,
    "digits": _digits,
    "packed": _packed,
}
SOURCES = (*_IMAGES, "text", "pydoc")
