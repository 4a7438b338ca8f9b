"""Writes the inputs and outputs of a method to the workdir: images as PNG files, tokens as text."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from jssl.core import Metrics, TrainState
from jssl.data import files
from jssl.evals.language import text
from jssl.parallel import mesh
from jssl.training.outbox import Outbox

if TYPE_CHECKING:
    from jssl.training.setup import Run

log = logging.getLogger("jssl")


def grid(images: np.ndarray, columns: int = 1) -> np.ndarray:
    """Joins images float [B, H, W, C] in 0..1 to one uint8 image, `columns` images to a row."""
    images = np.clip(np.asarray(images, np.float32), 0, 1)
    b, h, w, c = images.shape
    rows = -(-b // columns)
    padded = np.concatenate([images, np.ones((rows * columns - b, h, w, c), np.float32)])
    picture = padded.reshape(rows, columns, h, w, c).swapaxes(1, 2)
    return (picture.reshape(rows * h, columns * w, c) * 255 + 0.5).astype(np.uint8)


def save(path: str | os.PathLike[str], images: np.ndarray, columns: int = 1) -> None:
    """Writes `grid` as a PNG: three channels as RGB, others as gray from the first channel."""
    picture = grid(images, columns)
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(path)


class Album:
    """Writes files to <workdir>/pictures; a sink behind an `Outbox`.

    ``album(step, made)`` writes the results of `method.render`: <name>-<step>.png, or .txt for
    token ids.
    """

    def __init__(self, workdir: str | os.PathLike[str], source: Any) -> None:
        self.folder = pathlib.Path(workdir) / "pictures"
        self.source = source
        self.folder.mkdir(exist_ok=True)
        if self.folder.is_symlink():
            raise files.Damaged(self.folder, "it is a link")

    def __call__(self, step: int, made: dict[str, jax.Array]) -> None:
        for name, value in jax.device_get(made).items():
            if value.ndim == 2:
                path = self.folder / f"{name}-{step:07d}.txt"
                lines = "\n".join(
                    json.dumps(text(self.source.tokenizer, row), ensure_ascii=False)
                    for row in value
                )
                files.replace(path, lines + "\n")
            else:
                path = self.folder / f"{name}-{step:07d}.png"
                if path.is_symlink():
                    path.unlink()
                save(path, value)
            log.info("picture %s", path)

    def close(self) -> None:
        """Does nothing: every file is closed already."""


def renderer(
    run: Run, album: Outbox | None, every: int, count: int = 8
) -> Callable[[int, TrainState, Metrics], None]:
    """Returns an observer that renders the first examples every `every` steps and at the end.

    Args:
      run: the run; its method has `render`.
      album: an `Outbox` of an `Album`; None on all processes but the first.
      every: steps between two pictures.
      count: the number of examples.
    """
    assert run.method.render is not None
    source = run.data.source
    batch = source.read(np.arange(min(count, len(source))))
    batch.pop("damaged")
    render = jax.jit(run.method.render, out_shardings=mesh.replicated(run.mesh))

    def observe(step: int, state: TrainState, metrics: Metrics) -> None:
        if step % every and step != run.config.steps:
            return
        made = render(state, batch, jax.random.key(run.config.seed))
        if album:
            jax.tree.map(lambda x: x.copy_to_host_async(), made)
            album.post(lambda album: album(step, made))

    return observe
