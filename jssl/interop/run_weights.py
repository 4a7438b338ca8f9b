"""Reads the encoder of a workdir of jssl, without its method and its data."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jssl.config import ConfigError, UserError, call_with_section, suggest
from jssl.core import TrainState
from jssl.interop import convert
from jssl.interop.weights import Weights
from jssl.parallel import mesh
from jssl.workdir.best import restore_named
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")
PARTS = ("encoder", "teacher")


def is_run(config: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is that of a workdir."""
    return "config" in config and "run" in config


def read_run(path: str | os.PathLike[str], part: str = "encoder", step: str = "last") -> Weights:
    """Reads a checkpoint of a workdir.

    Args:
      path: the workdir.
      part: "encoder", the trained one, or "teacher", its moving average.
      step: which checkpoint (`find_step`): "best", "last" or a number.

    Raises:
      UserError: there is no such checkpoint, or the run has no teacher.
    """
    folder = RunFolder(path)
    config: Any = folder.recorded_config()
    state = stored_state(folder, config, step)
    params = state["params"]
    buffers = state["buffers"] or {}
    if part not in PARTS:
        raise UserError(f"part={part!r} is not known; {suggest(part, PARTS)}")
    if part == "teacher" and "teacher" not in buffers:
        raise UserError(
            f"{folder.path}: config.method={config.method!r} has no teacher; use part=encoder"
        )
    prefix = "teacher_" if part == "teacher" else ""
    tree = buffers["teacher"] if part == "teacher" else params
    stats = dict(buffers.get(f"{prefix}stats", {}))
    encoder = convert.flat(tree["encoder"], stats.pop("encoder", None))
    heads = {key: value for key, value in tree.items() if key != "encoder"}
    if part == "teacher":
        heads |= {key: params[key] for key in params if key not in tree}
    head = dict(config.head) if "prototypes" in heads else None
    found = own_weights(config, str(folder.path), encoder, int(state["step"]))
    return found._replace(heads=convert.flat(heads, stats), head=head)


def own_weights(config: Any, path: str, encoder: dict[str, np.ndarray], step: int) -> Weights:
    """The encoder of a run, without heads.

    Args:
      config: the config of the run.
      path: where the tensors are from, for messages.
      encoder: {our name: tensor}.
      step: of the state that they are from.
    """
    return Weights(
        path=path,
        layout="jssl",
        encoder=encoder,
        heads={},
        model=dict(config.model),
        pixels=pixels_of(config),
        unused=[],
        step=step,
    )


def pixels_of(config: Any) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of each channel, {} for text."""
    if "augment" not in config:
        return {}
    found = {key: tuple(config.augment[key]) for key in ("mean", "std")}
    channels = config.data.channels
    return {key: x * channels if len(x) == 1 else x for key, x in found.items()}


def evaluated_encoder(config: Any, devices: Mesh, embeds: str, state: TrainState) -> Weights:
    """The encoder that the evaluations of a run use. All processes call it.

    Args:
      config: the config of the run.
      devices: its mesh.
      embeds: "encoder" or "teacher", `Method.embeds`.
      state: the state of the run.
    """
    is_teacher = embeds == "teacher"
    tree = state.buffers["teacher"] if is_teacher else state.params
    stats = state.buffers.get("teacher_stats" if is_teacher else "stats", {})
    params, moments = jax.tree.map(
        partial(whole, devices), (tree["encoder"], stats.get("encoder", {}))
    )
    return own_weights(config, "the encoder", convert.flat(params, moments), int(state.step))


def whole(devices: Mesh, leaf: jax.Array) -> np.ndarray:
    """An array of all devices of a mesh on the host."""
    return np.asarray(jax.device_put(leaf, mesh.replicated(devices)))


def classifier(
    config: Any, devices: Mesh, classes: Sequence[str], step: int, tuned: TrainState
) -> Weights:
    """The fine-tuned encoder of `jssl.evals.finetune` with its last layer.

    Args:
      config: the config of the run.
      devices: its mesh.
      classes: the names of the classes, in order.
      step: of the checkpoint from which fine-tuning started.
      tuned: the fine-tuned state.
    """
    params = jax.tree.map(partial(whole, devices), tuned.params)
    stats = jax.tree.map(partial(whole, devices), tuned.buffers["stats"])
    encoder = convert.flat(params["encoder"], stats)
    tuned_encoder = own_weights(config, "the fine-tuned encoder", encoder, step)
    pool = {"pool": config.finetune.pool} if config.finetune.pool else {}
    return tuned_encoder._replace(
        model=tuned_encoder.model | pool,
        heads={f"head/{name}": value for name, value in params["head"].items()},
        classes=tuple(classes),
    )


def stored_state(folder: RunFolder, config: Any, step: str) -> dict[str, Any]:
    """A stored state of a run (`find_step`) as a tree of NumPy arrays.

    Raises:
      UserError: there is none.
    """
    checkpoints = folder.checkpoints(config.checkpoint)
    place = mesh.replicated(call_with_section(mesh.make_mesh, dict(data=-1, fsdp=1), "mesh"))
    state: Any = restore_named(checkpoints, checkpoints.stored_shapes(place), step)
    if state is None:
        raise ConfigError("workdir", folder.path, "holds no checkpoint yet", "train it first")
    checkpoints.close()
    return jax.tree.map(np.asarray, state)
