"""The report of a whole data set: the split of training, those of evaluation, what they share."""

import os
from collections.abc import Callable
from typing import Any

from jssl import data
from jssl.config import Config, ConfigError, UserError, call_with_section
from jssl.data.check import advice, classes, image_facts, image_report, texts
from jssl.data.source import Source, dataset_info
from jssl.data.splits import split_folders, split_kind
from jssl.data.text.corpora import Corpus, open_corpus

IMAGES = 20_000  # images of a split that are read, unless the user sets a number
DOCUMENTS = 1_000_000  # documents of a split
CORPUS_KEYS = ("source", "name", "path", "dir", "split", "encoding", "text_key")


def make_report(config: Config, limit: int) -> dict[str, Any]:
    """Looks at the data of a config: ``data.split``, ``eval.split`` and other folders of splits.

    Args:
      config: a whole config.
      limit: largest number of examples of a split to read; 0: a sensible number.

    Returns:
      JSON values: {"modality": "image" or "text", "splits": {split: see `image_report.describe` or
      `texts.describe`}, "pairs": {"train, test": {"same_files", "bytes" and "pixels" or
      "documents", "only_in": {split: names of classes}}}, "not_opened": {split: reason}, "advice":
      sentences}.

    Raises:
      UserError: the split of training cannot be opened, or nothing of it can be read.
    """
    is_text = config.data.source == "text" or bool(config.data.seq_len)
    return _text(config, limit) if is_text else _images(config, limit)


def _images(config: Config, limit: int) -> dict[str, Any]:
    source = call_with_section(data.load, config.data, "data").source
    if source.modality != "image":
        raise ConfigError(
            "config.data.source",
            config.data.source,
            f"its examples are {source.modality}",
            "check a source of images, or of text",
        )
    info = dataset_info(source)

    def opened(split: str) -> Source:
        return data.load_again(dict(config.data) | {"split": split}, info).source

    others, not_opened = _others(config, opened)
    sources = {config.data.split: source} | others
    crop = config.augment.size if "augment" in config else 0
    facts = {
        split: image_facts.gather(source, limit or IMAGES, split)
        for split, source in sources.items()
    }
    splits = {
        split: image_report.describe(source, facts[split], config.data, crop)
        for split, source in sources.items()
    }
    first = config.data.split
    shared = {
        split: image_report.between((source, facts[first]), (other, facts[split]))
        for split, other in others.items()
    }
    return _joined("image", splits, shared, not_opened)


def _text(config: Config, limit: int) -> dict[str, Any]:
    if config.data.source == "packed":
        raise ConfigError(
            "config.data.source",
            "packed",
            "packed text holds tokens only",
            "check the text from which it was packed",
        )
    damaged: dict[str, dict[str, str]] = {}

    def opened(split: str) -> Corpus:
        damaged[split] = {}
        section = {key: config.data[key] for key in CORPUS_KEYS} | {"split": split}
        return call_with_section(
            open_corpus, section | {"max_corrupt_fraction": 1.0}, "data", damaged=damaged[split]
        )

    first = config.data.split
    corpus = opened(first)
    others, not_opened = _others(config, opened)
    corpora = {first: corpus} | others
    most_bytes = 2**62 if limit else texts.BYTES
    readings = {
        split: texts.read(corpus, limit or DOCUMENTS, most_bytes, split)
        for split, corpus in corpora.items()
    }
    if not readings[first].documents:
        reasons = [f"{path}: {reason}" for path, reason in damaged[first].items()]
        raise UserError(f"{corpus.key}: no document can be read ({(reasons or ['all empty'])[0]})")
    splits = {
        split: texts.describe(corpus, readings[split], damaged[split], config.data)
        for split, corpus in corpora.items()
    }
    documents = {split: reading.documents for split, reading in readings.items()}
    shared = {split: texts.between(documents[first], documents[split]) for split in others}
    return _joined("text", splits, shared, not_opened)


def _others(config: Config, opened: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Opens ``eval.split`` and other folders of splits.

    Returns:
      ({split: what `opened` returned}, {split: reason why it cannot be opened}).
    """
    splits = [config.eval.split]
    path = config.data.path
    if config.data.source in ("folder", "text") and path:
        known = {split_kind(config.data.split), split_kind(config.eval.split)}
        folders = split_folders(os.path.expanduser(path))
        splits += [name for name, kind in folders.items() if kind and kind not in known]
    others = {}
    not_opened = {}
    for split in splits:
        if split == config.data.split:
            continue
        try:
            others[split] = opened(split)
        except UserError as error:
            not_opened[split] = str(error).replace("config.data.split=", "config.eval.split=")
    return others, not_opened


def _joined(
    modality: str,
    splits: dict[str, Any],
    shared: dict[str, Any],
    not_opened: dict[str, str],
) -> dict[str, Any]:
    """Joins the reports of all splits, and adds what differs in labels, and the advice."""
    first = next(iter(splits))
    own = advice.of_images if modality == "image" else advice.of_text
    what = "image" if modality == "image" else "document"
    sentences = [
        line for split, report in splits.items() for line in own(split, report, split == first)
    ]
    pairs = {}
    for split, pair in shared.items():
        labels = {name: splits[name]["labels"] for name in (first, split)}
        only_in = {
            first: classes.only_in(labels[first], labels[split]),
            split: classes.only_in(labels[split], labels[first]),
        }
        pairs[f"{first}, {split}"] = pair | {"only_in": only_in}
        sentences += advice.of_pair(first, split, pair | {"only_in": only_in}, what)
    sentences += [f"evaluations cannot read their split: {why}" for why in not_opened.values()]
    return {
        "modality": modality,
        "splits": splits,
        "pairs": pairs,
        "not_opened": not_opened,
        "advice": sentences,
    }
