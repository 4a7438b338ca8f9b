"""Which code a command may run: jssl, what is installed, and what the user names in that command.

A workdir, a data folder and the current folder may come from somebody else. So Python's search path
never has the current folder, and a method that is not of jssl is imported only if a recipe that
this command executes names it; a name that was merely read, from a workdir, is refused.
"""

import os
import pathlib
import sys

from jssl.errors import UserError

HERE = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)  # where jssl was found
_named: set[str] = set()  # methods of recipes that this process has executed
_folders: list[str] = []  # of those recipes


def leave_current_folder() -> None:
    """Takes the current folder off the search path, where ``python -m`` or an entry "." puts it.

    It stays if jssl itself was found there, if PYTHONPATH has it as an absolute path, and if it is
    the folder of a recipe that the user named.
    """
    asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = {HERE, *_folders, *(os.path.realpath(one) for one in asked if os.path.isabs(one))}
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    stays = os.path.realpath(here) in map(os.path.realpath, kept)
    foreign = {"", ".", here, os.path.realpath(here)}
    sys.path[:] = [one for one in sys.path if os.path.isabs(one) and (stays or one not in foreign)]


def grant(recipe: str | os.PathLike) -> None:
    """Puts the folder of a recipe that the user names on the search path, behind all else; of a
    recipe inside a package also the folder that holds the package."""
    folder = pathlib.Path(recipe).resolve().parent
    folders = [folder]
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
        folders.append(folder)
    for one in dict.fromkeys((folders[0], folders[-1])):
        if str(one) not in sys.path:
            sys.path.append(str(one))
        if str(one) not in _folders:
            _folders.append(str(one))


def name_method(method: object) -> None:
    """Remembers the method of a recipe: it is the user's own choice."""
    _named.add(str(method))


def check_method(method: object, where: str | os.PathLike) -> None:
    """`UserError` if a stored config names a method outside jssl that the user did not name."""
    if "." in str(method) and str(method) not in _named:
        raise UserError(
            f"config.method={method!r} of {os.fspath(where)} is no method of jssl, and what is "
            "stored chooses no code; name the recipe that it was trained with: "
            "--config=path/to/recipe.py"
        )
