"""`jssl data pack`, `jssl data tokenizer` and `jssl data prepare`: data sets, made once."""

from typing import Any

from jssl import data
from jssl.commands.arguments import count, require
from jssl.commands.table import Args, Overrides
from jssl.config import call_with_section, load
from jssl.data.prepare import prepare
from jssl.data.sources import packed
from jssl.data.text import packing, tokenizer
from jssl.data.text.corpora import Corpus, open_corpus
from jssl.log import log_progress

CORPUS_KEYS = (  # of the section data, those of `open_corpus`
    "source",
    "name",
    "path",
    "dir",
    "split",
    "encoding",
    "text_key",
    "max_corrupt_fraction",
)


def run_pack(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Decodes or tokenizes the data set of a recipe into the folder --out."""
    section: Any = load(require(args, "config", "data pack"), overrides).data
    out = require(args, "out", "data pack")
    if section.source == "text" or section.seq_len:  # streamed, because it may exceed memory
        return packing.pack(corpus_of(section), tokenizer.load(section.tokenizer), out)
    source = call_with_section(data.load, section, "data").source
    return packed.pack(source, out, log_progress("packed"))


def run_tokenizer(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Trains a byte-level BPE on the text of a recipe, into the file --out."""
    section = load(require(args, "config", "data tokenizer"), overrides).data
    out = require(args, "out", "data tokenizer")
    return packing.train(corpus_of(section), count(args, "vocab"), out)


def run_prepare(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Makes a data set of TFDS readable without TensorFlow."""
    return prepare(require(args, "name", "data prepare"), args["dir"])


def corpus_of(section: Any) -> Corpus:
    """Opens the texts of a section `data`, as a stream."""
    return call_with_section(open_corpus, {key: section[key] for key in CORPUS_KEYS}, "data")
