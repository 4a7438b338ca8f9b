"""`jssl embed`: the features of every example of a data set, as a file."""

import importlib.util
import logging
from typing import Any

import jax
import numpy as np

from jssl import errors
from jssl.commands.arguments import Args, Overrides, count, require
from jssl.commands.evaluate import open_workdir
from jssl.config import Config, UserError
from jssl.data.sources.absent import need
from jssl.evals import vectors
from jssl.evals.features import Features
from jssl.log import log_progress
from jssl.parallel import agreement
from jssl.training.restore import load_state
from jssl.training.setup import Run, setup_run

log = logging.getLogger("jssl")


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Embeds the data of the run in --workdir, or other data that --config.data.* names.

    It goes on where an earlier call with the same --out was stopped.
    """
    folder, tree = open_workdir(args, require(args, "workdir", "embed"), overrides)
    out = vectors.check_out(require(args, "out", "embed"))
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"--out={out}: needs pyarrow; {errors.install('parquet')}")
    config = Config(tree)
    work = setup_run(config, data_info=folder.data_info, training=False)
    source = work.data.source
    need(source, "embed", config)
    state = load_state(work, folder)
    size = count(args, "part-size")
    parts = vectors.Parts(
        out,
        vectors.about(
            run=folder.mark.run,
            step=int(state.step),
            data=source.fingerprint,
            examples=len(source),
            part_size=size,
            view=[config.eval.size, config.eval.crop_fraction],
        ),
    )
    number, unreadable = write_parts(work, state, source, parts, size)
    rows = 0
    if jax.process_index() == 0:
        rows = vectors.WRITERS[out.suffix](out, parts, number, source.classes)
        parts.remove()
    log.info("wrote %s: %d rows, %d unreadable", out, rows, unreadable)
    return {
        "out": str(out),
        "step": int(state.step),
        "examples": rows,
        "unreadable_examples": unreadable,
    }


def write_parts(
    work: Run, state: Any, source: Any, parts: vectors.Parts, size: int
) -> tuple[int, int]:
    """Writes the parts that are missing; returns (number of parts, unreadable examples)."""
    features = Features(work.method.embed, work.mesh, work.config.eval.batch_size)
    total = -(-len(source) // size)
    progress = log_progress(f"embedding {source.name}, parts")
    unreadable = 0
    for number in range(total):
        start = number * size
        stop = min(start + size, len(source))
        path = parts.path(number)
        if not agreement.first(path.exists):
            rows: Any = vectors.Rows(source, start, stop)
            found = features.whole(state, rows)
            arrays = {"features": found.features, "index": found.rows + start}
            names = [source.describe(int(i)) for i in arrays["index"]]
            arrays["name"] = np.array(names, str)
            if found.labels is not None:
                arrays["label"] = found.labels
            if jax.process_index() == 0:
                parts.write(number, **arrays)
        if jax.process_index() == 0:
            with np.load(path) as stored:
                unreadable += stop - start - len(stored["index"])
        progress(number + 1, total)
    return total, unreadable
