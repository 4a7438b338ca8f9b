"""The features of a large data set, in parts of bounded size on disk.

The folder of parts holds ``parts.json``, the identity of run, checkpoint and data, and one .npz per
part. A part is written atomically, so a stop loses at most the part in progress.
"""

import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from jssl.config import ConfigError, UserError
from jssl.core import TrainState
from jssl.data import files
from jssl.data.source import Source
from jssl.evals.features import Features
from jssl.parallel import agreement

PART_EXAMPLES = 4096  # rounded up to whole batches
IDENTITY = "parts.json"


class Parts:
    """The folder of parts beside a result.

    Attributes:
      folder: the folder.
      identity: JSON values that name the run, its step and the data.
      ranges: (start, stop) of the examples of each part.
    """

    def __init__(
        self, out: pathlib.Path, identity: dict[str, Any], examples: int, batch_size: int
    ) -> None:
        """Opens or makes the folder, on all processes.

        Args:
          out: the result, beside which the folder lies.
          identity: JSON values; the parts of another identity are refused.
          examples: number of examples of the source.
          batch_size: examples of a batch.

        Raises:
          UserError: the folder holds the parts of another run, checkpoint or data.
        """
        size = -(-PART_EXAMPLES // batch_size) * batch_size
        self.folder = out.with_name(f"{out.name}.parts")
        self.identity = identity | {"examples": examples, "part_examples": size}
        starts = range(0, examples, size)
        self.ranges = [(start, min(start + size, examples)) for start in starts]
        agreement.first(self._open)

    def _open(self) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / IDENTITY
        if not path.exists():
            if any(self.folder.iterdir()):
                raise self._other("holds files, and no parts.json that says of what")
            files.write_json(path, self.identity)
        try:
            stored = files.read_json(path)
        except files.Damaged as error:
            raise self._other(f"is damaged ({error.reason})") from None
        if not isinstance(stored, dict):
            raise self._other("is damaged")
        for key, value in self.identity.items():
            if stored.get(key) != value:
                raise self._other(f"holds parts with {key}={stored.get(key)!r}, not {value!r}")

    def _other(self, problem: str) -> ConfigError:
        return ConfigError(
            "out", self.folder, problem, "remove that folder, or choose another --out"
        )

    def path(self, number: int) -> pathlib.Path:
        """Returns the file of a part."""
        return self.folder / f"{number:06}.npz"

    def missing(self) -> list[int]:
        """Returns the numbers of the parts that are not written yet, on all processes."""
        numbers = range(len(self.ranges))
        return agreement.first(lambda: [n for n in numbers if not self.path(n).is_file()])

    def read(self, number: int, *members: str) -> dict[str, np.ndarray]:
        """Reads arrays of a part: "features", "index", "name" and, with labels, "label".

        Args:
          number: the number of the part.
          *members: the arrays to read; none: all.

        Raises:
          UserError: it is damaged.
        """
        path = self.path(number)
        try:
            with files.foreign(path), np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in members or stored.files}
        except (files.Damaged, FileNotFoundError) as error:
            raise UserError(
                f"{files.one_line(error)}; remove {path}, and the same command makes it again"
            ) from None

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder)


def embed_parts(
    features: Features,
    state: TrainState,
    source: Source,
    parts: Parts,
    progress: Callable[[int, int], None],
    is_main: bool = True,
) -> None:
    """Embeds the parts that are missing.

    Args:
      features: computes the features.
      state: the state that it gets.
      source: the source.
      parts: the folder of parts.
      progress: progress(done, total) is called after each part.
      is_main: whether this process writes the parts.
    """
    for number in parts.missing():
        start, stop = parts.ranges[number]
        embedded = features.part(state, source, start, stop)
        if is_main:
            names = [source.describe(row) for row in embedded.rows.tolist()]
            arrays: dict[str, np.ndarray] = {
                "features": embedded.features,
                "index": embedded.rows.astype(np.int64),
                "name": np.array([printable(name) for name in names], dtype=np.str_),
            }
            if embedded.labels is not None:
                arrays["label"] = embedded.labels.astype(np.int32)
            with files.replacing(parts.path(number)) as file:
                np.savez(file, allow_pickle=False, **arrays)
        progress(stop, len(source))


def printable(name: str) -> str:
    """Replaces what UTF-8 cannot write; a name of NULs at the end would lose them in an array."""
    text = name.encode(sys.getfilesystemencoding(), "surrogateescape").decode("utf-8", "replace")
    return text.rstrip("\0")


def info_json(parts: Parts, classes: list[str] | None) -> str:
    """Returns what a result tells of itself, as JSON."""
    return json.dumps(parts.identity | {"classes": classes}, sort_keys=True)
