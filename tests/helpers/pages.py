"""The fenced blocks of README.md and of the pages in docs/."""

import re
from typing import Any, NamedTuple

from conftest import ROOT

FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page; `title` is the file that it stands for, or ""."""

    language: str
    title: str
    code: str


def blocks(name: str) -> list[Block]:
    return [Block(*match) for match in FENCE.findall((ROOT / name).read_text())]


def write_files(name: str, folder: Any) -> None:
    """Writes the blocks of a page that have a title."""
    for block in blocks(name):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code)
