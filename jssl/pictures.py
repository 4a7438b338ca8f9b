"""Pictures of what a method sees and makes, as PNG files in the workdir; of text, as text."""

import json
import logging
import pathlib

import jax
import numpy as np
from PIL import Image

from jssl.evals.language import text

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


def renderer(run, workdir, every: int, count: int = 8):
    """An observer: `method.render` of the first `count` examples every `every` steps and at the
    end, as <workdir>/pictures/<name>-<step>.png, or .txt for token ids."""
    folder = pathlib.Path(workdir) / "pictures"
    render = jax.jit(run.method.render)

    def observe(step, state, metrics):
        if step % every and step != run.config.steps:
            return
        source = run.data.source
        batch = source.read(np.arange(min(count, len(source))))
        batch.pop("damaged")
        made = jax.device_get(render(state, batch, jax.random.key(run.config.seed)))
        folder.mkdir(exist_ok=True)
        for name, value in made.items():
            if value.ndim == 2:
                path = folder / f"{name}-{step:07d}.txt"
                lines = "\n".join(
                    json.dumps(text(source.tokenizer, row), ensure_ascii=False) for row in value
                )
                path.write_text(lines + "\n", encoding="utf-8")
            else:
                path = folder / f"{name}-{step:07d}.png"
                save(path, value)
            log.info("picture %s", path)

    return observe
