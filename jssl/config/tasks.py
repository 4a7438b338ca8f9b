"""The configs of several tasks in one: `config.tasks` names methods, each with its own section.

The config of a task is the whole config with the values of its section in place of the shared ones:
``config.rotation.head`` is `head` of the task "rotation", which has the shared `augment` unless
``config.rotation.augment`` changes keys of it.
"""

from typing import Any

import ml_collections

from jssl.config.tree import flatten
from jssl.config.view import Config
from jssl.errors import ConfigError, MissingKeyError, UserError

OWN = ("tasks", "balance", "gradnorm_alpha", "gradnorm_lr")  # keys that no task has


class Seen(set[str]):
    """The keys that a task has read; it marks them as read in the whole config too.

    Args:
      whole: the keys read from the whole config.
      renamed: {key of the config of the task: its key in the whole config}.
    """

    def __init__(self, whole: set[str], renamed: dict[str, str]) -> None:
        super().__init__()
        self.whole = whole
        self.renamed = renamed

    def add(self, key: str) -> None:
        """Marks a key of the task as read."""
        super().add(key)
        self.whole.add(self.renamed.get(key, key))


def methods_of(tree: ml_collections.ConfigDict) -> dict[str, str]:
    """{name of a task and its section: its method}; {} if the config has no tasks.

    The name is that of the method, without the package of a method outside jssl.
    """
    pairs: Any = tree.get("tasks", ())
    return {str(method).rpartition(".")[2]: str(method) for method, *_ in pairs}


def weights_of(config: Config) -> dict[str, float]:
    """{name of a task: weight} of the tasks with a weight above 0.

    Raises:
      UserError: a task is there twice, is no method, or all weights are 0.
    """
    found: dict[str, float] = {}
    for method, weight in config.tasks:
        name = method.rpartition(".")[2]
        if name in found or name == config.method:
            problem = "is there twice" if name in found else "cannot be its own task"
            raise ConfigError("config.tasks", method, problem, "name each method once")
        found[name] = weight
    if not any(found.values()):
        raise ConfigError("config.tasks", config.tasks, "all weights are 0", "set one to 1.0")
    return {name: weight for name, weight in found.items() if weight}


def section_of(tree: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The section of a task.

    Raises:
      UserError: it is missing.
    """
    section: Any = tree.get(name)
    if not isinstance(section, ml_collections.ConfigDict):
        raise ConfigError(
            "config.tasks", name, f"needs a section {name!r}", "add it to the recipe; {} will do"
        )
    return section


def tree_of(tree: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The config of a task, as a tree."""
    section = section_of(tree, name)
    own = tree.copy_and_resolve_references().unlock()
    method = methods_of(tree)[name]
    for key in (*OWN, *methods_of(tree)):
        if key in own:
            del own[key]
    own.method = method
    own.update(section.copy_and_resolve_references())
    return own.lock()


def config_of(config: Config, name: str) -> Config:
    """The config of a task; what is read from it counts as read from `config`."""
    keys = flatten(section_of(config._tree, name))
    renamed = {key: own_key(key, name) for key in keys}
    return Config(tree_of(config._tree, name), seen=Seen(config._seen, renamed))


def own_key(key: str, name: str) -> str:
    """The key of the whole config that a key of a task is: "config.rotation.head.features"."""
    return f"config.{name}.{key.removeprefix('config.')}"


def renamed_error(error: UserError, tree: ml_collections.ConfigDict, name: str) -> UserError:
    """An error of a task whose message names the keys of the whole config."""
    if isinstance(error, MissingKeyError):
        cure = str(error).partition("; ")[2]
        return MissingKeyError(own_key(error.key, name), cure)
    text = str(error)
    for key in sorted(flatten(section_of(tree, name)), key=len, reverse=True):
        text = text.replace(f"--{key}", f"--{own_key(key, name)}")
    return UserError(text)
