"""What is said of wrong input: an error of one line, the nearest name that is known, and how a
missing optional package is installed.
"""

import difflib
import json
import pathlib
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata

ROOT = pathlib.Path(__file__).resolve().parent.parent


class UserError(Exception):
    """The user's input is wrong. One line: key, value, cure. The command exits with 2."""


def suggest(word: object, choices: Iterable) -> str:
    """The cure for a name that is not known: the nearest known one, and all, if they are few;
    some of them, if there are many and none is near."""
    known = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    cure = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 12 or not close:
        more = f" and {len(known) - 12} more" if len(known) > 14 else ""
        shown = known[:12] if more else known
        cure.append(f"known: {', '.join(shown) or 'none'}{more}")
    return " ".join(cure)


def install(extra: str) -> str:
    """The command that installs the extra `extra` of jssl into the Python that runs this.

    A checkout has no name in a package index: there the command names its folder.
    """
    python = pathlib.Path(sys.executable)
    pip = f"{shlex.quote(str(python))} -m pip install"
    if checkout():
        return f"{pip} -e {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"{pip} {shlex.quote(f'jssl[{extra}]')}"


def checkout() -> bool:
    """Whether this is a checkout: imported from one, or installed from one with pip -e."""
    if (ROOT / "pyproject.toml").is_file():
        return True
    try:
        text = metadata.distribution("jssl").read_text("direct_url.json")
        return bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return False
