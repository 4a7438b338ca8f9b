"""Lists all keys that a recipe lacks, if its method could not be built without one of them."""

import ast
import inspect
from typing import Any

import ml_collections

from jssl import methods, recipes
from jssl.config import Config, UserError, values
from jssl.core import DatasetInfo, Vocab
from jssl.data.source import image_fields
from jssl.errors import MissingKeyError

TOP = ("method", "steps", "batch_size")
# Values with which the search goes on, to find what else is missing.
STAND_INS: dict[str, Any] = {
    "steps": 100,
    "batch_size": 64,
    "model": recipes.resnet("resnet18", "cifar"),
    "head": recipes.mlp(512, 128, last="bn"),
    "predictor": recipes.mlp(512, 128, last="bias"),
    "augment": recipes.simclr_augment(32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1)),
    "augment_second_view": {},
    "local": {"count": 6, "size": 16},
}
# Used before the data set is open. A method of text needs a vocabulary.
ANY_DATA = DatasetInfo(
    num_examples=2**20,
    modality="image",
    fields=image_fields((32, 32, 3), "uint8", labeled=False),
    vocab=Vocab(size=260, pad=0, start=1, end=2, mask=3, fingerprint=""),
)


def check(tree: ml_collections.ConfigDict) -> None:
    """Raises `UserError`, which names all missing keys, if a key of every run is missing."""
    lacks = [name for name in TOP if name not in tree]
    if lacks:
        first = MissingKeyError(f"config.{lacks[0]}", "add it to the recipe")
        raise report(Config(tree), ANY_DATA, first)


def report(config: Config, data_info: DatasetInfo, error: MissingKeyError) -> UserError:
    """Makes the error that names all missing keys at once.

    They are the keys of every run, those that the source code of the method reads as
    ``config.name``, and those that it lacks one after the other when it is built.

    Args:
      config: a config whose method could not be built.
      data_info: the facts about its data set.
      error: the first missing key.
    """
    names = [name for name in TOP if name not in config]
    if "method" in config:
        names += [name for name in read_by(config.method) if name not in config]
        names += _found_by_building(config, data_info)
    names.append(error.key.removeprefix("config."))
    keys = [f"--config.{name}" for name in dict.fromkeys(names)]
    if len(keys) == 1:
        return error
    return UserError(
        f"the recipe lacks {', '.join(keys[:-1])} and {keys[-1]}; add them (jssl.recipes has "
        "functions that make sections)"
    )


def read_by(method: str) -> list[str]:
    """The top-level keys that a method declares in `KEYS`, or reads as ``config.name``."""
    module = methods.module(method)
    names = list(getattr(module, "KEYS", {}))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_")
            if node.value.id == "config" and not private and not hasattr(Config, node.attr):
                names.append(node.attr)
    return list(dict.fromkeys(names))


def _found_by_building(config: Config, data_info: DatasetInfo) -> list[str]:
    """Builds the method again and again, with a stand-in for each key that is missing."""
    tree = config._tree.copy_and_resolve_references().unlock()
    keys = getattr(methods.module(config.method), "KEYS", {})
    stand_ins = STAND_INS | {name: values.example(kind) for name, kind in keys.items()}
    names = []
    while True:
        try:
            methods.load(Config(tree), data_info)
            return names
        except MissingKeyError as error:
            name = error.key.removeprefix("config.")
            if name not in stand_ins or name in names:
                return names
            names.append(name)
            tree[name] = stand_ins[name]
        except UserError:  # of the stand-ins
            return names
