"""`jssl export`: the encoder of a workdir as a folder that other libraries load."""

from typing import Any

from jssl.commands.arguments import require
from jssl.commands.table import Args, Overrides
from jssl.config import ConfigError, UserError, suggest
from jssl.interop import export, verify
from jssl.interop.export_run import export_weights
from jssl.interop.run_weights import read_run
from jssl.workdir.run_folder import RunFolder


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Writes the folder; with --verify it compares it with the real library first.

    Raises:
      UserError: wrong input, or the library has no such encoder.
      SystemExit: with code 1, if --verify finds a difference above `verify.LIMIT`.
    """
    folder = RunFolder(require(args, "workdir", "export"))
    kind = require(args, "format", "export")
    out = require(args, "out", "export")
    check_request(kind, out)
    if args["heads"] and kind != "hf":
        raise UserError("--heads needs --format=hf")
    if args["verify"]:
        verify.check_possible(kind)
    part = args["part"] or folder.stored().get("embeds", "encoder")
    weights = read_run(folder.path, part, args["step"])
    result = folder.result() or {}
    return export_weights(
        folder, weights, kind, out, result, heads=args["heads"], is_verified=args["verify"]
    )


def check_request(kind: str, out: str) -> None:
    """Raises `UserError` if a format is not known, or the folder `out` is not new."""
    if kind not in export.FORMATS:
        raise ConfigError("format", kind, "not known", suggest(kind, export.FORMATS))
    export.check_new(out)
