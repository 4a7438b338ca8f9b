"""The weights of a frozen teacher (`jssl.nn.frozen`): read when a run begins, then kept by it.

`described` fills what a config leaves open about the teacher, before anything is built: the
sections `teacher_model` and `teacher_head`, the pixels and the number of prototypes. config.json of
the run stores them. `start_teacher` puts the weights into the state at step 0, and so into
checkpoints. They are no constants of the compiled step.
"""

from typing import Any

import ml_collections
import numpy as np

from jssl.config import Config, ConfigError, UserError
from jssl.core import TrainState
from jssl.interop import convert
from jssl.interop.read import read_weights
from jssl.interop.start import fitted, log_start, misfit_of, put, put_all
from jssl.interop.weights import Weights
from jssl.nn.frozen import BUFFER, TRAINING_KEYS

SECTIONS = ("teacher", "teacher_model")  # of a config: the path of the weights, their encoder
OPEN = ("teacher_model", "teacher_head", "out_dim")  # keys that a config may leave empty
PROTOTYPES = ("prototypes", "prototypes/head")  # of dino, of ibot


def described(
    tree: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict | None = None
) -> ml_collections.ConfigDict:
    """Returns a copy of a config that says all about its teacher; or the config, if it does.

    Args:
      tree: a whole config.
      recorded: the config of the run that goes on; its weights are not read again.

    Raises:
      UserError: the weights cannot be read, or have no prototypes that the loss needs.
    """
    if any(name not in tree for name in SECTIONS):
        return tree
    teacher: Any = tree.teacher
    model: Any = tree.teacher_model
    if len(model) and (teacher.mean and teacher.std or not teacher.path):
        return tree
    if recorded is not None:
        return filled(tree, {key: recorded.get(key) for key in ("teacher", *OPEN)})
    if not teacher.path:
        return tree
    weights = read(teacher.path, teacher.part)
    return filled(tree, stated(tree, weights))


def filled(tree: ml_collections.ConfigDict, facts: dict[str, Any]) -> ml_collections.ConfigDict:
    """A copy of a config in which empty keys of the teacher have the values of `facts`."""
    tree = tree.copy_and_resolve_references().unlock()
    teacher: Any = tree.teacher
    for key in OPEN:
        if key in tree and not tree[key] and facts.get(key):
            tree[key] = ml_collections.ConfigDict(facts[key]) if key != "out_dim" else facts[key]
    for key in ("mean", "std"):
        teacher[key] = teacher[key] or facts["teacher"][key]
    return tree.lock()


def stated(tree: Any, weights: Weights) -> dict[str, Any]:
    """What weights say about the keys that a config may leave open."""
    pixels = {
        key: fit_channels(weights.pixels.get(key) or tree.augment[key], tree.data.channels)
        for key in ("mean", "std")
    }
    off = {key: value for key, value in TRAINING_KEYS.items() if key in weights.model}
    model = weights.model | off | {"dtype": tree.model.dtype}
    facts: dict[str, Any] = {"teacher": pixels, "teacher_model": model}
    if tree.get("prototype_weight"):
        layer = prototypes_of(weights)
        if layer is None or weights.head is None:
            raise ConfigError(
                "config.prototype_weight",
                tree.prototype_weight,
                f"{weights.path} has no prototypes of DINO",
                "name a workdir of dino or ibot with --config.teacher, or set it to 0",
            )
        facts |= {"teacher_head": weights.head, "out_dim": len(layer["direction"])}
    return facts


def fit_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistics of pixels for images of so many channels: their mean, if the number differs."""
    return values if len(values) in (1, channels) else (sum(values) / len(values),)


def read(path: str, part: str) -> Weights:
    """Reads the weights of a teacher; raises `UserError` with the key."""
    try:
        return read_weights(path, part)
    except UserError as error:
        raise UserError(f"--config.teacher={error}") from None


def prototypes_of(weights: Weights) -> dict[str, np.ndarray] | None:
    """{"direction" [K, D], "scale" [K]} of the prototypes for class tokens; None if none."""
    for prefix in PROTOTYPES:
        direction = weights.heads.get(f"{prefix}/direction")
        if direction is not None:
            ones = np.ones(len(direction), np.float32)
            return {"direction": direction, "scale": weights.heads.get(f"{prefix}/scale", ones)}
    return None


def start_teacher(config: Config, state: TrainState) -> TrainState:
    """The state at step 0 with the weights of ``config.teacher.path`` in its frozen teacher.

    Args:
      config: the whole config, `described`.
      state: the state that the method drew; without path its random teacher stays.

    Raises:
      UserError: the weights cannot be read, or do not fit ``config.teacher_model``.
    """
    if any(name not in config for name in SECTIONS) or not config.teacher.path:
        return state
    weights = read(config.teacher.path, config.teacher.part)
    drawn = state.buffers[BUFFER]
    shapes = convert.flat(drawn["params"]["network"], drawn["stats"]["network"])
    tensors, notes = fitted(config, weights, shapes, SECTIONS)
    log_start("teacher", weights, notes)
    params = dict(drawn["params"])
    stats = dict(drawn["stats"])
    params["network"] = put_all(params["network"], convert.like(params["network"], tensors))
    stats["network"] = put_all(stats["network"], convert.like(stats["network"], tensors))
    if "head" in params:
        head = head_tensors(weights, convert.flat(params["head"], stats["head"]))
        params["head"] = put_all(params["head"], convert.like(params["head"], head))
        stats["head"] = put_all(stats["head"], convert.like(stats["head"], head))
        params["prototypes"] = start_prototypes(weights, params["prototypes"])
    frozen = {"params": params, "stats": stats}
    return state.replace(buffers=state.buffers | {BUFFER: frozen})


def head_tensors(weights: Weights, shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of the head of a workdir; raises `UserError` if they have other shapes."""
    tensors = {}
    for name, leaf in shapes.items():
        value = weights.heads.get(f"head/{name}")
        if value is None or value.shape != leaf.shape:
            found = "no such tensor" if value is None else f"{value.shape}"
            problem = f"head/{name} is {found}, and config.teacher_head has {leaf.shape}"
            raise misfit_of(weights, "teacher", problem)
        tensors[name] = value
    return tensors


def start_prototypes(weights: Weights, drawn: dict[str, Any]) -> dict[str, Any]:
    """The prototypes of a workdir; raises `UserError` if their number differs."""
    layer = prototypes_of(weights)
    shape = drawn["direction"].shape
    if layer is None or layer["direction"].shape != shape:
        found = "none" if layer is None else layer["direction"].shape
        raise misfit_of(weights, "teacher", f"its prototypes are {found}, and not {shape}")
    return {name: put(value, layer[name]) for name, value in drawn.items()}
