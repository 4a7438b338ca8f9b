"""`jssl list`: what jssl has, by name."""

import inspect
import logging
import re
from typing import Any

from jssl import config, methods, nn, optim
from jssl.commands import evaluate
from jssl.commands.table import Args, Overrides
from jssl.data.sources.by_name import SOURCES

log = logging.getLogger("jssl")
TITLE = re.compile(r'"(.+?)"', re.DOTALL)
ARXIV = re.compile(r"(?:arXiv:? ?|arXiv\.org/abs/)(\d{4}\.\d{4,5})")


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Lists everything; a table goes to stderr."""
    found = {
        "methods": {name: paper(name) for name in methods.names()},
        "recipes": recipes(),
        "encoders": encoders(),
        "sources": list(SOURCES),
        "optimizers": list(optim.NAMES),
        "protocols": list(evaluate.KNOWN),
    }
    for line in table(found):
        log.info("%s", line)
    return found


def paper(method: str) -> dict[str, str]:
    """Title and arXiv number of a method's paper, as the docstring of its module states them."""
    text = inspect.getdoc(methods.module(method)) or ""
    title = TITLE.search(text)
    number = ARXIV.search(text)
    return {
        "title": " ".join(title[1].split()) if title else "",
        "arxiv": number[1] if number else "",
    }


def recipes() -> dict[str, dict[str, str]]:
    """{name: {"method", "description"}} of the recipes of jssl."""
    return {name: describe(name) for name in config.shipped()}


def describe(recipe: str) -> dict[str, str]:
    """The method of a recipe, and the first sentence of its docstring."""
    text = config.docstring(recipe).partition("\n\n")[2]  # the first paragraph is its command
    sentence = re.split(r"(?<=[.;:])(?<!et al\.)\s", " ".join(text.split()), maxsplit=1)[0]
    return {"method": str(config.read(recipe).method), "description": sentence.rstrip(";:")}


def encoders() -> list[str]:
    """The encoders by name, without those that are only for tests."""
    return [name for name in nn.builders() if not name.endswith("_test")]


def table(found: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    lines = ["methods"]
    for name, entry in found["methods"].items():
        link = f"  arXiv:{entry['arxiv']}" if entry["arxiv"] else ""
        lines.append(f"  {name:16} {entry['title']}{link}")
    lines.append("recipes (--config=NAME)")
    for name, entry in found["recipes"].items():
        lines.append(f"  {name:26} {entry['description']}")
    for kind in ("encoders", "sources", "optimizers", "protocols"):
        lines += [kind, f"  {', '.join(found[kind])}"]
    return lines
