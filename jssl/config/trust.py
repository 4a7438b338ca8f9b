"""Which code a command may run: jssl, installed packages, and files that the user names.

A workdir, a data folder and the current folder may come from another person. Therefore Python's
search path never has the current folder. Modules outside jssl are imported from what is installed,
from the folder of the recipe that this command names with --config, and from the folders of --path.
A name that was read from a workdir is refused unless this command names the module too.
"""

import os
import pathlib
import sys
from collections.abc import Iterable, Mapping

from jssl.errors import ConfigError

# The folder from which jssl is imported.
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_named: set[str] = set()  # modules that the user named in this process
_folders: list[str] = []  # of recipes and of --path


def leave_current_folder() -> None:
    """Removes the current folder from the search path; ``python -m`` or an entry "." puts it there.

    It stays if jssl itself is imported from it, if PYTHONPATH has it as an absolute path, and if it
    is the folder of a recipe that the user named.
    """
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = {
        HERE,
        *_folders,
        *(os.path.realpath(entry) for entry in python_path if os.path.isabs(entry)),
    }
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    stays = os.path.realpath(here) in map(os.path.realpath, kept)
    foreign = {"", ".", here, os.path.realpath(here)}
    sys.path[:] = [
        entry for entry in sys.path if os.path.isabs(entry) and (stays or entry not in foreign)
    ]


def grant(recipe: str | os.PathLike[str]) -> None:
    """Appends the folder of a recipe that the user names to the search path.

    For a recipe inside a package it also appends the folder that holds the package.
    """
    folder = pathlib.Path(recipe).resolve().parent
    folders = [folder]
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
        folders.append(folder)
    for entry in dict.fromkeys((folders[0], folders[-1])):
        grant_folder(entry)


def grant_folder(folder: str | os.PathLike[str]) -> None:
    """Appends a folder that the user names to the search path.

    Raises:
      UserError: it is no folder.
    """
    path = os.path.realpath(folder)
    if not os.path.isdir(path):
        raise ConfigError("path", os.fspath(folder), "no folder", "name that of the module")
    if path not in sys.path:
        sys.path.append(path)
    if path not in _folders:
        _folders.append(path)


def name(*modules: str) -> None:
    """Records modules as the user's own choice in this command."""
    _named.update(modules)


def check_stored(names: Mapping[str, Iterable[str]], where: str | os.PathLike[str]) -> None:
    """Checks the dotted names that were read from a file.

    Args:
      names: {key: its names}, see `jssl.config.plugins.names`.
      where: what was read, for the message.

    Raises:
      UserError: the user did not name one of them in this command.
    """
    for key, modules in names.items():
        for module in modules:
            if module not in _named:
                raise ConfigError(
                    f"config.{key}",
                    module,
                    f"{os.fspath(where)} has this name, and what is stored chooses no code",
                    "name the recipe that it was trained with: --config=path/to/recipe.py, or "
                    f"the module: --method={module} --path=DIR",
                )
