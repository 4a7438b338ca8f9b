"""Writes the inputs and outputs of a method to the workdir: images as PNG files, tokens as text."""

from __future__ import annotations

import functools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jssl.core import Metrics, Panel, TrainState
from jssl.data import files
from jssl.evals.language import text
from jssl.parallel import mesh
from jssl.training import panels

if TYPE_CHECKING:
    from jssl.training.setup import Run

log = logging.getLogger("jssl")


class Rendered:
    """The results of `method.render` after a step, for several sinks.

    Args:
      step: the step.
      made: {name: panel, images or token ids}, arrays on the device or on the host.
    """

    def __init__(self, step: int, made: Mapping[str, Any]) -> None:
        self.step = step
        self.made = made

    @functools.cached_property
    def _fetched(self) -> dict[str, Any]:
        return jax.device_get(dict(self.made))

    @functools.cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """{name: uint8 [H, W, 3]} of all panels and images."""
        return {
            name: panels.compose(panels.as_panel(value))
            for name, value in self._fetched.items()
            if not _is_text(value)
        }

    @property
    def tokens(self) -> dict[str, np.ndarray]:
        """{name: int32 [B, L]} of all token ids."""
        return {name: value for name, value in self._fetched.items() if _is_text(value)}


def _is_text(value: Any) -> bool:
    return not isinstance(value, Panel) and value.ndim == 2


class Album:
    """Writes files to <workdir>/pictures; a sink behind an `Outbox`.

    ``album(rendered)`` writes <name>-<step>.png, or .txt for token ids.
    """

    def __init__(self, workdir: str | os.PathLike[str], source: Any) -> None:
        self.folder = pathlib.Path(workdir) / "pictures"
        self.source = source
        self.folder.mkdir(exist_ok=True)
        if self.folder.is_symlink():
            raise files.Damaged(self.folder, "it is a link")

    def __call__(self, rendered: Rendered) -> None:
        for name, rows in rendered.tokens.items():
            lines = [
                json.dumps(text(self.source.tokenizer, row), ensure_ascii=False) for row in rows
            ]
            self._write(f"{name}-{rendered.step:07d}.txt", "\n".join(lines) + "\n")
        for name, picture in rendered.pictures.items():
            self._write(f"{name}-{rendered.step:07d}.png", panels.to_png(picture))

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        files.replace(path, content)
        log.info("picture %s", path)

    def close(self) -> None:
        """Does nothing: every file is closed already."""


def renderer(
    run: Run,
    every: int,
    show: Callable[[Rendered], None],
    ended: Callable[[], bool],
    count: int = 8,
) -> Callable[[int, TrainState, Metrics], None]:
    """Returns an observer that renders the first examples every `every` steps and at the end.

    Args:
      run: the run; its method has `render`.
      every: steps between two pictures.
      show: passes the results to the sinks; it must not wait.
      ended: whether the run ends early at this step.
      count: the number of examples.
    """
    assert run.method.render is not None
    source = run.data.source
    batch = source.read(np.arange(min(count, len(source))))
    batch.pop("damaged")
    render = jax.jit(run.method.render, out_shardings=mesh.replicated(run.mesh))

    def observe(step: int, state: TrainState, metrics: Metrics) -> None:
        if step % every and step != run.config.steps and not ended():
            return
        made = render(state, batch, jax.random.key(run.config.seed))
        jax.tree.map(lambda x: x.copy_to_host_async(), made)
        show(Rendered(step, made))

    return observe
