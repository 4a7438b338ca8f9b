"""`jssl export`: the encoder of a workdir as a folder that other libraries load."""

import logging
import pathlib
from typing import Any

from jssl.commands.arguments import require
from jssl.commands.table import Args, Overrides
from jssl.config import ConfigError, UserError, suggest
from jssl.data.text import tokenizer
from jssl.interop import export, programs, to_onnx, verify, verify_onnx
from jssl.interop.card import card
from jssl.interop.run_weights import read_run
from jssl.interop.tokenizer_files import write_tokenizer
from jssl.interop.weights import Weights
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")


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
    weights = read_run(folder.path, args["part"], args["step"])
    return export_weights(folder, weights, kind, out, args["heads"], args["verify"])


def check_request(kind: str, out: str) -> None:
    """Raises `UserError` if a format is not known, or the folder `out` is not new."""
    if kind not in export.FORMATS:
        raise ConfigError("format", kind, "not known", suggest(kind, export.FORMATS))
    export.check_new(out)


def export_weights(
    folder: RunFolder,
    weights: Weights,
    kind: str,
    out: str,
    heads: bool = False,
    is_verified: bool = False,
) -> dict[str, Any]:
    """Exports an encoder or a classifier of a run; see `run`."""
    config: Any = folder.recorded_config()
    stored = folder.stored()
    info = folder.data_info
    channels = info.fields["image"].shape[-1] if info.modality == "image" else 0
    if channels and info.fields["image"].dtype != "uint8" and kind != "safetensors":
        raise UserError(
            f"--format={kind} divides pixels by 255, and those of this run have more than 8 bits; "
            "use --format=safetensors"
        )
    text = export.is_text(weights)
    facts = {
        "step": weights.step,
        "commit": stored.get("versions", {}).get("commit", ""),
        "recipe": stored.get("recipe", {}).get("name", ""),
        "examples": info.num_examples,
    }
    metadata = {
        "jssl_commit": str(facts["commit"]),
        "jssl_config": folder.mark.digest,
        "jssl_step": str(weights.step),
    }
    difference = None
    with export.new_folder(out) as made:
        if kind == "safetensors":
            export.write_own(made, weights, metadata)
        elif kind == "stablehlo":
            size = weights.model["length"] if text else export.pixels_of(weights, config)["size"]
            programs.write(made, weights, size, channels)
        elif kind == "onnx":
            to_onnx.write(made, weights, config, channels, metadata)
        else:
            target = export.target_of(weights, config, kind, channels, heads)
            pixels = None if text else export.pixels_of(weights, config)
            export.write(made, target, channels, metadata, pixels)
        if text:
            known = tokenizer.load(config.data.tokenizer)
            write_tokenizer(made, known, weights.model["length"])
        result = folder.result() or {}
        (made / "README.md").write_text(
            card(kind, weights, config, result, facts, text), encoding="utf-8"
        )
        if is_verified:
            difference = verified(kind, made, weights, config, channels)
    log.info("wrote %s", pathlib.Path(out).absolute())
    return {"out": str(out), "format": kind, "step": weights.step, "difference": difference}


def verified(
    kind: str, made: pathlib.Path, weights: Weights, config: Any, channels: int
) -> dict[str, float]:
    """Loads the folder in the real library and compares; exits with 1 above `verify.LIMIT`."""
    if kind == "onnx":
        difference = verify_onnx.compare(made, weights, config, channels)
    else:
        difference = verify.check(kind, made, weights, channels)
    for name, value in difference.items():
        log.info("verified in %s, %s input: largest difference %.2g", kind, name, value)
    if not max(difference.values()) <= verify.LIMIT:
        log.error("a difference is above %g; nothing was written", verify.LIMIT)
        raise SystemExit(1)
    return difference
