"""Which code a command may run: jssl, installed packages, and files that the user names.

A workdir, a data folder and the current folder may come from another person. Therefore Python's
search path never has the current folder. A method outside jssl is imported only if a recipe that
this command executes names it; a name that was read from a workdir is refused.
"""

import os
import pathlib
import sys

from jssl.errors import UserError

# The folder from which jssl is imported.
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_named: set[str] = set()  # methods of recipes that this process has executed
_folders: list[str] = []  # of those recipes


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
        if str(entry) not in sys.path:
            sys.path.append(str(entry))
        if str(entry) not in _folders:
            _folders.append(str(entry))


def name_method(method: object) -> None:
    """Records the method of a recipe as the user's own choice."""
    _named.add(str(method))


def check_method(method: object, where: str | os.PathLike[str]) -> None:
    """Raises `UserError` if a stored method is outside jssl and the user did not name it."""
    if "." in str(method) and str(method) not in _named:
        raise UserError(
            f"config.method={method!r} of {os.fspath(where)} is no method of jssl, and what is "
            "stored chooses no code; name the recipe that it was trained with: "
            "--config=path/to/recipe.py"
        )
