"""A run on a folder of images, whose class names are HTML."""

import numpy as np
from PIL import Image

from jssl.config import load
from jssl.training import loop

CLASSES = ("<img src=x onerror=alert(1)>", "b&b")


def write_images(folder, count=8):
    """`count` images of each of `CLASSES`, in <folder>/train and <folder>/test."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def train_vit(root):
    """(workdir, images): a MAE that has learned two steps of a folder of images in `root`."""
    images = write_images(root / "images")
    changes = {
        "data.source": "folder",
        "data.path": str(images),
        "data.split": "train",
        "eval.split": "test",
        "steps": "2",
        "batch_size": "8",
        "eval.every": "2",
        "log.render_every": "1",
    }
    loop.train(load("mae_imagenette:tiny", changes), root / "run")
    return root / "run", images
