"""Pictures of what a method sees and makes, as PNG files in the workdir; of text, as text."""

import json
import logging
import pathlib

import jax
import numpy as np
from PIL import Image

from jssl.data import files
from jssl.evals.language import text
from jssl.parallel import mesh

log = logging.getLogger("jssl")


def grid(images, columns: int = 1) -> np.ndarray:
    """[B, H, W, C] in 0..1 -> one uint8 picture, `columns` images to a row."""
    images = np.clip(np.asarray(images, np.float32), 0, 1)
    b, h, w, c = images.shape
    rows = -(-b // columns)
    padded = np.concatenate([images, np.ones((rows * columns - b, h, w, c), np.float32)])
    picture = padded.reshape(rows, columns, h, w, c).swapaxes(1, 2)
    return (picture.reshape(rows * h, columns * w, c) * 255 + 0.5).astype(np.uint8)


def save(path, images, columns: int = 1) -> None:
    """Writes `grid` as a PNG; one channel as gray, three as RGB, others by their first."""
    picture = grid(images, columns)
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(path)


class Album:
    """Files in <workdir>/pictures; a sink behind an `Outbox`.

    album(step, made) writes what `method.render` made: <name>-<step>.png, or .txt for token ids.
    """

    def __init__(self, workdir, source):
        self.folder = pathlib.Path(workdir) / "pictures"
        self.source = source
        self.folder.mkdir(exist_ok=True)
        if self.folder.is_symlink():
            raise files.Damaged(self.folder, "it is a link")

    def __call__(self, step: int, made: dict) -> None:
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
        """Every file is closed already."""


def renderer(run, album, every: int, count: int = 8):
    """An observer: hands `method.render` of the first `count` examples to `album`, an `Outbox` or
    None (on all processes but the first), every `every` steps and at the end."""
    source = run.data.source
    batch = source.read(np.arange(min(count, len(source))))
    batch.pop("damaged")
    render = jax.jit(run.method.render, out_shardings=mesh.replicated(run.mesh))

    def observe(step, state, metrics):
        if step % every and step != run.config.steps:
            return
        made = render(state, batch, jax.random.key(run.config.seed))
        if album:
            jax.tree.map(lambda x: x.copy_to_host_async(), made)
            album.post(lambda album: album(step, made))

    return observe
