"""Writes the encoder of a run, with its card and its tokenizer, as a folder."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jssl.config import UserError
from jssl.data.text import tokenizer
from jssl.interop import export, programs, to_onnx, verify, verify_onnx
from jssl.interop.card import card
from jssl.interop.tokenizer_files import write_tokenizer
from jssl.interop.weights import Weights
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")
PROBES = ("knn_top1", "linear_top1")


def export_weights(
    folder: RunFolder,
    weights: Weights,
    kind: str,
    out: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    heads: bool = False,
    is_verified: bool = False,
    replace: bool = False,
) -> dict[str, Any]:
    """Writes an encoder or a classifier of a run.

    Args:
      folder: of the run.
      weights: the encoder.
      kind: one of `export.FORMATS`, or "auto": timm, hf or safetensors, the first that fits.
      out: the new folder.
      result: of the run, {} if it has not ended; for the card.
      heads: with the head of the pretraining.
      is_verified: whether to compare the folder with the real library first.
      replace: whether a folder of an earlier call may be there; it is replaced.

    Raises:
      UserError: the library has no such encoder, or `out` cannot be written.
      SystemExit: with code 1, if a difference is above `verify.LIMIT`.
    """
    config: Any = folder.recorded_config()
    stored = folder.stored()
    info = folder.data_info
    channels = info.fields["image"].shape[-1] if info.modality == "image" else 0
    has_bytes = not channels or info.fields["image"].dtype == "uint8"
    if kind == "auto":
        kind = fitting_format(weights, config, channels) if has_bytes else "safetensors"
    if not has_bytes and kind != "safetensors":
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
    with export.new_folder(out, replace) as made:
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
        measured = accuracies(result, weights.step)
        (made / "README.md").write_text(
            card(kind, weights, config, measured, facts, text), encoding="utf-8"
        )
        if is_verified:
            difference = verified(kind, made, weights, config, channels)
    log.info("wrote %s", pathlib.Path(out).absolute())
    return {"out": str(out), "format": kind, "step": weights.step, "difference": difference}


def fitting_format(weights: Weights, config: Mapping[str, Any], channels: int) -> str:
    """The first of timm, hf and safetensors that has such an encoder."""
    for kind in ("timm", "hf"):
        with contextlib.suppress(UserError):
            export.target_of(weights, config, kind, channels)
            return kind
    return "safetensors"


def accuracies(result: Mapping[str, Any], step: int) -> dict[str, float]:
    """The accuracies in the result of a run that were measured at a step."""
    best = result.get("best") or {}
    found = {best["probe"]: best["value"]} if best.get("step") == step else {}
    if result.get("step") == step:
        found |= {name: result[name] for name in PROBES if result.get(name) is not None}
    return found


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
