"""How a missing optional package is installed, in the words that fit how jssl was installed."""

import json
import pathlib
import shlex
import sys
from importlib import metadata

ROOT = pathlib.Path(__file__).resolve().parent.parent


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
