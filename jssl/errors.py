"""Errors for wrong input: one line each, with the most similar known name, and with the command
that installs a missing optional package.
"""

import difflib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import TypeGuard

ROOT = pathlib.Path(__file__).resolve().parent.parent


class UserError(Exception):
    """The user's input is wrong. One line: key, value, cure. The command exits with 2."""


class ConfigError(UserError):
    """A key of the config, or a flag, has a wrong value.

    Args:
      key: the key or flag, as it is written after "--": "config.optim.lr", "workdir".
      value: its value.
      problem: what is wrong.
      fix: what to do.
    """

    def __init__(self, key: str, value: object, problem: str, fix: str) -> None:
        super().__init__(f"--{key}={short(value)}: {problem}; {fix}")


class MissingKeyError(UserError, AttributeError):
    """A config lacks a key. It is an `AttributeError` too, so that `hasattr` and `copy` work.

    Attributes:
      key: the key, such as "config.model.name".
    """

    def __init__(self, key: str, cure: str) -> None:
        super().__init__(f"--{key} is missing; {cure}")
        self.key = key


def short(value: object, limit: int = 120) -> str:
    """Returns ``repr(value)`` in one line of at most `limit` characters; of a path, its text."""
    try:
        text = " ".join(repr(os.fspath(value) if is_path(value) else value).split())
    except ValueError:  # an int of more digits than Python writes
        text = f"a {type(value).__name__} of many digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def is_path(value: object) -> TypeGuard[os.PathLike[str]]:
    """Whether a value is an object for a path, such as `pathlib.Path`."""
    return isinstance(value, os.PathLike)


def suggest(word: object, choices: Iterable[object]) -> str:
    """Returns the cure for an unknown name, as in "did you mean 'lr'? known: lr, name".

    It names the most similar choice, and all choices if there are few; it lists some of them if
    there are many and none is similar.
    """
    names = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    cure = [f"did you mean {close[0]!r}?"] if close else []
    if len(names) <= 12 or not close:
        more = f" and {len(names) - 12} more" if len(names) > 14 else ""
        shown = names[:12] if more else names
        cure.append(f"known: {', '.join(shown) or 'none'}{more}")
    return " ".join(cure)


def install(extra: str) -> str:
    """Returns the command that installs the extra `extra` of jssl into the running Python.

    A checkout has no name in a package index, so the command names its folder there.
    """
    python = pathlib.Path(sys.executable)
    pip = f"{shlex.quote(str(python))} -m pip install"
    if checkout():
        return f"{pip} -e {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"{pip} {shlex.quote(f'jssl[{extra}]')}"


def checkout() -> bool:
    """Whether jssl is imported from a checkout, or installed from one with pip -e."""
    if (ROOT / "pyproject.toml").is_file():
        return True
    try:
        text = metadata.distribution("jssl").read_text("direct_url.json")
        return bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return False
