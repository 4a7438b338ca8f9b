"""`jssl compare`: what differs between runs, in their configs and in what they reached."""

import io
import shutil
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jssl.commands.table import Args, Overrides
from jssl.config import UserError
from jssl.log import plain
from jssl.reports import records


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Prints a table on stderr.

    Returns {"workdirs": [...], "config": {key: [value of each run]}, "figures": the same}, with the
    config keys that differ.

    Raises:
      UserError: fewer than two workdirs, or one of them holds no run.
    """
    workdirs = list(args["workdir"])
    if len(workdirs) < 2:
        raise UserError(
            f"--workdir is given {len(workdirs)} times; jssl compare needs it twice or more: "
            "--workdir=runs/a --workdir=runs/b"
        )
    runs = [records.read_record(workdir) for workdir in workdirs]
    differing = records.differences(runs)
    reached = records.compared_figures(runs)
    print(table(records.labels_of(runs), differing, reached), file=sys.stderr)
    return {"workdirs": workdirs, "config": differing, "figures": reached}


def table(names: list[str], differing: dict[str, list[Any]], reached: dict[str, list[Any]]) -> str:
    """Formats the table: one column for each run."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("")
    for name in names:
        grid.add_column(Text(plain(name)), justify="right", overflow="fold")
    sections = {"config keys that differ": differing, "figures": reached}
    for title, rows in sections.items():
        grid.add_row(Text(title if rows else f"{title}: none", style="bold"))
        for name, values in rows.items():
            cells = [Text(plain(records.text_of(name, value))) for value in values]
            grid.add_row(Text(f"  {plain(name)}"), *cells)
    output = io.StringIO()
    width = max(80, shutil.get_terminal_size().columns)
    Console(file=output, width=width).print(grid)
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())
