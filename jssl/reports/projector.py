"""The files that the embedding projector of TensorBoard loads.

They lie beside files of events, or in any folder that ``tensorboard --logdir`` names:
projector_config.pbtxt names the others, which lie in the folder projector.
"""

import math
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jssl.config import ConfigError
from jssl.data import files
from jssl.evals.feature_file import class_name
from jssl.evals.feature_parts import printable
from jssl.reports import thumbnails
from jssl.reports.examples import EmbeddedRows
from jssl.training.panels import to_png

CONFIG = "projector_config.pbtxt"
TILE = 64  # pixels: the side of one image, at most
LARGEST = 8192  # pixels: the side of the picture of all images, at most; a limit of the projector


def write(folder: pathlib.Path, embedded: EmbeddedRows, classes: Sequence[str], step: int) -> None:
    """Writes features, metadata and, for images, one picture of all; replaces earlier files.

    Args:
      folder: where the files go; its parent exists.
      embedded: N examples with their features.
      classes: class names by number; empty if there are no labels.
      step: the step of the encoder, for the name that is shown.

    Raises:
      UserError: the folder cannot be made.
    """
    parts = folder / "projector"
    for path in (folder, parts):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ConfigError("out", path, "not a folder, or a link", "move it out of the way")
        path.mkdir(exist_ok=True)
    features = np.ascontiguousarray(embedded.features, "<f4")
    files.replace(parts / "features.bytes", features.tobytes())
    files.replace(parts / "metadata.tsv", metadata(embedded, classes))
    lines = [
        f'tensor_name: "features_of_step_{step}"',
        *(f"tensor_shape: {size}" for size in features.shape),
        'tensor_path: "projector/features.bytes"',
        'metadata_path: "projector/metadata.tsv"',
    ]
    if "image" in embedded.source.fields:
        picture, side = sprite(embedded)
        files.replace(parts / "sprite.png", to_png(picture))
        path = 'image_path: "projector/sprite.png"'
        lines.append(f"sprite {{ {path} single_image_dim: {side} single_image_dim: {side} }}")
    text = "\n".join(f"  {line}" for line in lines)
    files.replace(folder / CONFIG, f"embeddings {{\n{text}\n}}\n")


def metadata(embedded: EmbeddedRows, classes: Sequence[str]) -> str:
    """Returns a table with tabs: a line of titles, and a line for each example.

    Its columns are the class (if there are labels), the text (if it is text), the name and the
    index. At least two columns are needed, because a single one has no title.
    """
    source = embedded.source
    is_text = "tokens" in source.fields
    titles = ["class"] * bool(classes) + ["text"] * is_text + ["name", "index"]
    table = [titles]
    for i, row in enumerate(embedded.rows.tolist()):
        cells = [printable(source.describe(row)), str(row)]
        if is_text:
            cells.insert(0, thumbnails.words(source, row))
        if classes:
            cells.insert(0, class_name(list(classes), embedded.label(i)) or "")
        table.append(cells)
    return "".join("\t".join(" ".join(cell.split()) for cell in cells) + "\n" for cells in table)


def sprite(embedded: EmbeddedRows) -> tuple[np.ndarray, int]:
    """Returns (picture, side): all images row by row in a square grid, each in a tile.

    The picture is uint8 [grid * side, grid * side, 3].
    """
    grid = math.ceil(math.sqrt(len(embedded.rows)))
    side = min(TILE, LARGEST // grid)
    picture = Image.new("RGB", (grid * side, grid * side), "white")
    for i, row in enumerate(embedded.rows.tolist()):
        image = thumbnails.thumbnail(thumbnails.image_of(embedded.source, row), side)
        left = i % grid * side + (side - image.width) // 2
        top = i // grid * side + (side - image.height) // 2
        picture.paste(image, (left, top))
    return np.asarray(picture), side
