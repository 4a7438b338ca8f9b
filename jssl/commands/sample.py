"""`jssl sample`: images that a generative method draws, as PNG files."""

from typing import Any

import jax
from PIL import Image

from jssl.commands.arguments import count, require
from jssl.commands.evaluate import open_workdir
from jssl.commands.table import Args, Overrides
from jssl.config import Config, ConfigError
from jssl.evals import generation
from jssl.interop.export import new_folder
from jssl.log import log_progress
from jssl.training.restore import load_state
from jssl.training.setup import setup_run


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Writes the images to --out, a new folder; the same ones for a checkpoint and a seed.

    Raises:
      UserError: wrong input, or the method generates no images.
    """
    workdir = require(args, "workdir", "sample")
    out = require(args, "out", "sample")
    number = count(args, "n")
    truncation = positive(args["truncation"])
    folder, tree = open_workdir(args, workdir, overrides)
    jssl_run = setup_run(Config(tree), data_info=folder.data_info, training=False)
    generation.check(jssl_run)
    state = load_state(jssl_run, folder, step=args["step"])
    images = generation.generate(jssl_run, state, number, log_progress("images"), truncation)
    if jax.process_index() == 0:
        digits = len(str(number - 1))
        with new_folder(out) as made:
            for i, image in enumerate(images):
                gray = image.shape[-1] == 1
                Image.fromarray(image[..., 0] if gray else image).save(made / f"{i:0{digits}}.png")
    return {"out": out, "step": int(state.step), "images": number}


def positive(text: str) -> float:
    """A truncation from the command line; raises `UserError` unless it is 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError("truncation", text, "no number from 0 on", "try 0.5; 0: off")
    return value
