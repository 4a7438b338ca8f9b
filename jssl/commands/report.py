"""`jssl report`: one HTML page about a run, or about several."""

import logging
import os
import pathlib
from typing import Any

from jssl.commands.arguments import count
from jssl.commands.evaluate import open_workdir
from jssl.commands.table import Args, Overrides
from jssl.config import ConfigError, UserError
from jssl.data import files
from jssl.reports import content, page
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Writes the page.

    Raises:
      UserError: no workdir, a workdir without a run, a missing package, or --out cannot be written.
    """
    page.require_packages()
    workdirs = list(args["workdir"])
    if not workdirs:
        raise UserError("--workdir is missing; name the folder of a run, e.g. --workdir=runs/a")
    for workdir in workdirs:
        RunFolder(workdir).stored()
    examples = count(args, "examples")
    out = pathlib.Path(args["out"] or os.path.join(workdirs[0], "report.html")).expanduser()
    if out.is_dir() or not out.absolute().parent.is_dir():
        problem = "a folder" if out.is_dir() else "in a folder that does not exist"
        raise ConfigError("out", out, problem, "name a file, such as report.html")
    made = content.page_content(
        workdirs, lambda workdir: open_workdir(args, workdir, overrides), examples
    )
    text = page.render(made)
    files.replace(out, text)
    log.info("wrote %s (%.1f MB); open it in a browser", out.absolute(), len(text) / 1e6)
    return {"out": str(out), "workdirs": workdirs, "bytes": len(text.encode())}
