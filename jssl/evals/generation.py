"""`--protocol=generation`: how far generated images are from those of the training set.

The distances (`jssl.evals.distances`) are computed in a named space of features: of an own encoder
(``config.eval.features``, a workdir), or principal components of the pixels. Two rows stand beside
them: the floor, unseen test images against training images, and the scale, blurred test images
against them. Figures of another space, of another number of images or of other training data do not
compare.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jax import Array

from jssl.config import ConfigError
from jssl.core import Batch, TrainState
from jssl.data.source import Source
from jssl.evals import distances
from jssl.evals.features import Features
from jssl.training.setup import Run, rng_keys
from jssl.transforms.pictures import to_pixels
from jssl.transforms.views import eval_view

COMPONENTS = 64  # of the pixels
SIDE = 32  # px, of the images whose pixels are compared
BLUR = 2.0  # px, standard deviation of the blur of the scale
STREAM = 17  # of the random numbers of the run

Images = np.ndarray  # uint8 [N, H, W, C]
Space = Callable[[Images], np.ndarray]  # images -> float32 [N, D]
Progress = Callable[[str], Callable[[int, int], None]]


def evaluate(run: Run, state: TrainState, queries: Source, progress: Progress) -> dict[str, Any]:
    """Compares generated images with training images.

    Args:
      run: the run; its method has `sample`.
      state: its state.
      queries: the test images.
      progress: progress(what) returns f(done, total).

    Returns:
      JSON values: the figures of the generated images, "floor", "scale", the name of the features,
      and the numbers of images.

    Raises:
      UserError: the method generates no images.
    """
    check(run)
    count = run.config.eval.generated
    real = pixels(run, state, run.data.source, count, progress)
    unseen = pixels(run, state, queries, count, progress)
    new = generate(run, state, min(count, len(real)), progress("generated"))
    name, space = space_of(run, real)
    wanted = space(real)
    rows = {"generated": new, "floor": unseen, "scale": blurred(unseen)}
    found = {row: distances.compare(space(x), wanted)._asdict() for row, x in rows.items()}
    sizes = {"n_generated": len(new), "n_train": len(real), "n_test": len(unseen)}
    return found.pop("generated") | found | {"features": name} | sizes


def check(run: Run) -> None:
    """Raises `UserError` if the method of a run generates no images."""
    if run.method.sample is None:
        raise ConfigError(
            "workdir",
            run.config.method,
            "a method that generates no images",
            "name a run of biggan, stylegan2 or vae",
        )


def pixels(run: Run, state: TrainState, source: Source, count: int, progress: Progress) -> Images:
    """The evaluation views of the first `count` examples of a source."""
    view = eval_view(run.config)

    def shown(state: TrainState, batch: Batch) -> Array:
        return to_pixels(run.config, view(batch)).reshape(len(batch["image"]), -1)

    reader = Features(shown, run.mesh, run.config.eval.batch_size)
    whole = min(-(-count // reader.batch_size) * reader.batch_size, len(source))
    rows = reader.part(state, source, 0, whole).features[:count]
    side = run.config.eval.size or run.config.augment.size
    return to_uint8(rows.reshape(len(rows), side, side, -1))


def to_uint8(images: np.ndarray) -> Images:
    """Images of 0..1 as uint8."""
    return np.clip(np.round(images * 255), 0, 255).astype(np.uint8)


def generate(
    run: Run,
    state: TrainState,
    count: int,
    progress: Callable[[int, int], None],
    truncation: float = 0.0,
) -> Images:
    """`count` images that the method of a run draws; the same ones for a state and a seed."""
    size = run.config.eval.batch_size
    draw: Any = run.method.sample
    sample = jax.jit(lambda state, rng: draw(state, rng, size, truncation))
    rng = jax.random.fold_in(rng_keys(run.config)[1], STREAM)
    found = []
    for i in range(-(-count // size)):
        found.append(to_uint8(np.asarray(sample(state, jax.random.fold_in(rng, i)))))
        progress(min((i + 1) * size, count), count)
    return np.concatenate(found)[:count]


def space_of(run: Run, real: Images) -> tuple[str, Space]:
    """(name, function) of the features of ``config.eval.features``; pixels if it is empty."""
    path = run.config.eval.features
    if not path:
        return f"{COMPONENTS} principal components of pixels at {SIDE} px", principal(real)
    import jssl  # it imports this module

    encoder = jssl.load(path, batch_size=run.config.eval.batch_size)
    return f"{encoder.config.method} of {path}, step {encoder.step}", encoder.embed


def principal(real: Images) -> Space:
    """The projection of small versions of images on the main axes of the real ones, in 0..1."""
    x = small(real)
    mean = x.mean(0)
    _, axes = np.linalg.eigh((x - mean).T @ (x - mean))
    axes = axes[:, ::-1][:, :COMPONENTS]
    return lambda images: (small(images) - mean) @ axes


def small(images: Images) -> np.ndarray:
    """Pixels of images in 0..1, averaged to at most `SIDE` px a side: float64 [N, D]."""
    side = min(SIDE, images.shape[1])
    shape = (len(images), side, side, images.shape[-1])
    resized = jax.image.resize(jnp.asarray(images, jnp.float32) / 255, shape, "linear")
    return np.asarray(resized, np.float64).reshape(len(images), -1)


def blurred(images: Images) -> Images:
    """Images after a Gaussian blur of `BLUR` px."""
    sigma = (0, BLUR, BLUR, 0)
    return to_uint8(scipy.ndimage.gaussian_filter(images.astype(np.float32) / 255, sigma))
