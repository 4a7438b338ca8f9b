"""`jssl train`: pretrains a recipe, or continues the run in a workdir."""

from typing import Any

from jssl.commands.arguments import require
from jssl.commands.table import Args, Overrides
from jssl.config import load, record
from jssl.parallel.agreement import run_on_all_processes
from jssl.training import loop


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Trains; returns the result of the run (`jssl.training.loop.train`)."""
    recipe = require(args, "config", "train")
    config = run_on_all_processes(lambda: load(recipe, overrides))
    return loop.train(
        config,
        require(args, "workdir", "train"),
        extend=args["extend"],
        changed_data=args["changed-data"],
        recipe=record(recipe),
    )
