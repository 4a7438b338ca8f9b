"""`jssl data check`: looks at a data set before a run. It writes nothing."""

import io
import itertools
import os
import shutil
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jssl.commands.arguments import count
from jssl.commands.table import Args, Overrides
from jssl.config import Config, UserError, load
from jssl.data.check import rows
from jssl.data.check.report import make_report
from jssl.data.sources.folder import extensions
from jssl.data.text import text_files
from jssl.data.walk import walk
from jssl.log import plain

RECIPES = {"folder": "photos", "text": "bert_small_books"}  # without --config
SHOWN = 10  # unreadable files of a split that are printed


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Prints tables and advice on stderr.

    Returns {"recipe", "modality", "splits": {split: its report}, "pairs": {"train, test": what two
    splits share}, "not_opened": {split: reason}, "advice": sentences}.

    Raises:
      UserError: the flags are wrong, or nothing can be read.
    """
    recipe, config = _config(args, overrides)
    limit = count(args, "examples") if args["examples"] else 0
    report = {"recipe": recipe} | make_report(config, limit)
    print(plain_table(report), file=sys.stderr)
    return report


def plain_table(report: dict[str, Any]) -> str:
    """Formats a report: a column for each split, then files, then advice."""
    of_split = rows.of_text if report["modality"] == "text" else rows.of_images
    columns = {split: of_split(content) for split, content in report["splits"].items()}
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column(f"as {report['recipe']} reads it", no_wrap=True)
    for split in columns:
        grid.add_column(Text(plain(split)), justify="right", overflow="fold")
    for name in dict.fromkeys(itertools.chain(*columns.values())):
        cells = [Text(plain(column.get(name, ""))) for column in columns.values()]
        grid.add_row(Text(name), *cells)
    output = io.StringIO()
    width = max(100, shutil.get_terminal_size().columns)
    Console(file=output, width=width).print(grid)
    lines = [line.rstrip() for line in output.getvalue().rstrip().splitlines()]
    for split, content in report["splits"].items():
        damage = content["unreadable"]
        some = damage["first"][:SHOWN]
        lines += [f"{split}: cannot read {one['name']}: {one['reason']}" for one in some]
        if damage["count"] > len(some):
            lines.append(f"{split}: and {damage['count'] - len(some):,} more")
    lines.append("advice:" if report["advice"] else "advice: none")
    lines += [f"  - {sentence}" for sentence in report["advice"]]
    return "\n".join(plain(line) for line in lines)


def _config(args: Args, overrides: Overrides) -> tuple[str, Config]:
    """Returns the recipe and its config, with the folder --data in it."""
    path = args["data"]
    recipe = args["config"]
    if not path and not recipe:
        raise UserError("--data is missing; write --data=FOLDER, or --config=RECIPE")
    if path:
        source = _kind(path)
        recipe = recipe or RECIPES[source]
        overrides = {"data.source": source, "data.path": path} | overrides
    return recipe, Config(load(recipe, overrides))


def _kind(path: str) -> str:
    """Returns the source that reads a folder: "text" if it holds texts and no images."""
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return "text" if path.lower().endswith(text_files.EXTENSIONS) else "folder"
    if not os.path.isdir(path) or walk(path, extensions()).files:
        return "folder"
    return "text" if walk(path, text_files.EXTENSIONS).files else "folder"
