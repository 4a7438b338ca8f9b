"""What several test files share."""

import json
from typing import Any

from jssl import data
from jssl.config import Config, load
from jssl.core import DatasetInfo, Vocab
from jssl.data.source import Source, image_fields, info_to_json, text_fields
from jssl.workdir import identity, run_folder
from jssl.workdir.claim import TrainingFolder


def image_info(examples: int = 64, side: int = 32, channels: int = 3) -> DatasetInfo:
    """What is known of a made-up set of images."""
    fields = image_fields((side, side, channels), "uint8", labeled=True)
    return DatasetInfo(examples, "image", fields)


def text_info(
    size: int = 260, length: int = 32, *, pad: int = 0, start: int = 1, end: int = 2, mask: int = 3
) -> DatasetInfo:
    """What is known of a made-up set of text with `size` ids."""
    fields = text_fields(length, word_ids=False, labeled=False)
    return DatasetInfo(64, "text", fields, Vocab(size, pad, start, end, mask, "made up"))


def config_of(recipe: str, **changes: Any) -> Config:
    """A recipe with ``section__key=value`` laid over it."""
    words = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return Config(load(recipe, words))


def open_source(**section: Any) -> Source:
    """The source that these keys of the config section `data` describe."""
    base = {"name": "", "path": "", "dir": "", "split": "train", "max_side": 16, "channels": 3}
    base |= {"on_device": False, "workers": 0, "max_corrupt_fraction": 0.01}
    return data.load(**(base | section)).source


def with_content(workdir: Any, content: dict[str, Any]) -> TrainingFolder:
    """The folder of a run that will write `content` as config.json."""
    folder = TrainingFolder(workdir)
    folder.content = content
    return folder


def config_json(tree: Any) -> str:
    """The config.json of a run with this config."""
    config = json.loads(run_folder.to_json(tree))
    info = info_to_json(image_info())
    content = {"format": identity.FORMAT, "run": "a", "digest": identity.digest(config, info)}
    content |= {"config": config, "data_info": info, "earlier": [], "numbers": {}, "data": ""}
    return json.dumps(content)
