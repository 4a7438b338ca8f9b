"""jssl from Python, for notebooks and other programs: `recipe`, `train` and `load`.

import jssl

config = jssl.recipe("simclr_cifar10", steps=1000, optim__lr=0.1)
jssl.train(config, "runs/c10")
encoder = jssl.load("runs/c10")
z = encoder.embed(images)  # uint8 arrays, Pillow images or paths -> float32 [N, D]
"""

import logging
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, cast

import jax
import ml_collections
import numpy as np
from PIL import Image

from jssl import config as configs
from jssl.config import Config, ConfigError, UserError
from jssl.core import Params
from jssl.data import DataConfig
from jssl.data.decode import Pixels
from jssl.data.source import Source, TextSource
from jssl.data.sources import memory
from jssl.data.sources.absent import Absent
from jssl.evals.features import Features
from jssl.parallel import mesh
from jssl.parallel.connect import initialize_distributed
from jssl.parallel.preemption import PREEMPTED
from jssl.training import loop
from jssl.training.restore import load_state
from jssl.training.setup import setup_run
from jssl.workdir.best import check_name
from jssl.workdir.run_folder import RunFolder

Item = np.ndarray | Image.Image | str | os.PathLike[str]


def recipe(name: str, **changes: Any) -> ml_collections.ConfigDict:
    """Loads the config of a recipe.

    Args:
      name: of a recipe of jssl, "simclr_cifar10" or "simclr_cifar10:variant", or the path of a
        recipe file.
      **changes: new values of keys; "__" separates the sections: ``optim__lr=0.1``.

    Raises:
      UserError: there is no such recipe or key, or a value is wrong.
    """
    return configs.load(name, {key.replace("__", "."): value for key, value in changes.items()})


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    extend: bool = False,
    changed_data: bool = False,
) -> dict[str, Any]:
    """Trains a config, or continues the run in `workdir`; see `jssl.training.loop.train`.

    Progress goes to stderr, through the logger "jssl". If no logger has a handler, "jssl" gets one.

    Returns:
      The result: step, loss, examples_per_s, params_sha256, knn_top1, linear_top1, the best
      checkpoint, and counts.

    Raises:
      UserError: wrong input.
      KeyboardInterrupt: a signal stopped the run after it was saved; the same call continues it.
    """
    _show_progress()
    initialize_distributed()
    try:
        return loop.train(config, workdir, extend=extend, changed_data=changed_data)
    except SystemExit as end:
        if end.code != PREEMPTED:
            raise
        raise KeyboardInterrupt(
            "the run was stopped and saved; call jssl.train again to continue it"
        ) from None


def _show_progress() -> None:
    log = logging.getLogger("jssl")
    if not log.hasHandlers():
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)


class Encoder:
    """A pretrained encoder, as `load` returns it.

    Attributes:
      config: the config of the run.
      step: the step of the checkpoint.
      dim: the number of features, D.
      params: the parameters of the method; ``params["encoder"]`` are those of the encoder.
    """

    config: ml_collections.ConfigDict
    step: int
    dim: int
    params: Params

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        batch_size: int = 0,
        tokenizer: str | None = None,
        step: int | str = "last",
    ):
        """Restores a checkpoint; see `load`."""
        check_name(str(step))
        run_dir = RunFolder(workdir)
        self.config = run_dir.config
        if tokenizer is not None:
            configs.override(self.config, {"data.tokenizer": os.fspath(tokenizer)})
        view = Config(self.config)
        info = run_dir.data_info
        source = Absent(view, info, "it is not needed")
        self._run = setup_run(
            view,
            devices=mesh.make_mesh(data=-1, fsdp=1, tensor=1),
            source=DataConfig(source, False, 0, 0.0),
            data_info=info,
            training=False,
        )
        self._state = load_state(self._run, run_dir, step=str(step))
        self._batch_size = batch_size or view.eval.batch_size
        self._features: dict[int, Features] = {}  # by batch size
        self.step = int(self._state.step)
        self.params = self._state.params
        embed = self._run.method.embed
        self.dim = jax.eval_shape(embed, self._run.shapes, self._run.example).shape[-1]

    def embed(self, examples: np.ndarray | Image.Image | Sequence[Item] | str) -> np.ndarray:
        """Computes the features of examples, in batches on all devices.

        Args:
          examples: for images, an array uint8 [N, H, W, C] or [N, H, W], or a sequence of arrays
            uint8 [H, W, C], Pillow images and paths, of any sizes. For text, a sequence of strings.
            One image, one path or one string counts as a sequence of one.

        Returns:
          float32 [N, D].

        Raises:
          UserError: an example cannot be read.
        """
        source = self._source(_as_sequence(examples))
        if not len(source):
            return np.zeros((0, self.dim), np.float32)
        size = min(self._batch_size, 1 << (len(source) - 1).bit_length())
        if size not in self._features:
            self._features[size] = Features(self._run.method.embed, self._run.mesh, size)
        features, _ = self._features[size](self._state, source)
        return features

    def _source(self, examples: Sequence[Any] | np.ndarray) -> Source:
        info = self._run.data_info
        data: Any = self.config.data
        if info.modality == "image":
            canvas = info.fields["image"].shape
            white = info.max_value if info.fields["image"].dtype != np.uint8 else 0.0
            exif = data.exif != "off"
            return memory.MemoryImages(examples, Pixels(data.max_side, canvas, exif, white))
        if info.modality == "text":
            tokenizer = cast(TextSource, self._run.data.source).tokenizer
            if not hasattr(tokenizer, "encode"):
                raise ConfigError(
                    "config.data.tokenizer",
                    data.tokenizer,
                    "cannot be opened, and embed needs it",
                    "name the file: jssl.load(workdir, tokenizer=FILE)",
                )
            return memory.texts(list(examples), tokenizer, data.seq_len)
        raise UserError(f"embed takes images and texts; this run was trained on {info.modality}")


def load(
    workdir: str | os.PathLike[str],
    batch_size: int = 0,
    tokenizer: str | None = None,
    step: int | str = "last",
) -> Encoder:
    """Loads the encoder of a run from a checkpoint. Its training data is not needed.

    Args:
      workdir: the folder of the run.
      batch_size: examples of a batch of `Encoder.embed`; 0: ``config.eval.batch_size``. Fewer
        examples make a smaller batch.
      tokenizer: of text, where its file lies now; None: where it was.
      step: the checkpoint: "last", "best" (by kNN during training) or the number of a step.

    Raises:
      UserError: the folder holds no run, no checkpoint yet, or no such checkpoint.
    """
    return Encoder(workdir, batch_size, tokenizer, step)


def _as_sequence(examples: Any) -> Sequence[Any] | np.ndarray:
    """A sequence of one for one path, text or image; else the examples."""
    if isinstance(examples, str | pathlib.PurePath | Image.Image):
        return [examples]
    if isinstance(examples, np.ndarray) and examples.ndim < 3:
        raise UserError(f"images of shape {examples.shape} are none; use [N, H, W, C] or [N, H, W]")
    return examples
