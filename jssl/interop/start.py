"""A run that starts from weights: `config.init_from`. `jssl.interop.teacher` uses its parts."""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jssl.config import Config, ConfigError, UserError
from jssl.core import TrainState
from jssl.interop import adapt, architecture, convert
from jssl.interop.read import read_weights
from jssl.interop.weights import Weights

log = logging.getLogger("jssl")
SECTIONS = ("init_from", "model")  # of a config: the path of the weights, their encoder


def start_state(config: Config, state: TrainState) -> TrainState:
    """The state at step 0 with the weights of ``config.init_from.path``.

    Every encoder of the state gets them: the trained one and the teacher, with their BatchNorm
    statistics. Other parts of the parameters, such as MAE's decoder, get those of the file that
    fit.

    Args:
      config: the whole config.
      state: the state that the method drew.

    Raises:
      UserError: the weights cannot be read, or do not fit ``config.model``.
    """
    path = config.init_from.path
    if not path:
        return state
    try:
        weights = read_weights(path, config.init_from.part)
    except UserError as error:
        raise UserError(f"--config.init_from={error}") from None
    tensors, notes = fitted(config, weights, encoder_tensors(state), SECTIONS)
    log_start("start from", weights, notes)
    check_pixels(config, weights)
    heads = with_new_tokens(weights.heads, state.params)
    params = replaced(state.params, tensors, heads)
    teacher = {f"teacher/{name}": value for name, value in heads.items()}
    buffers = replaced(state.buffers, tensors, teacher)
    return state.replace(params=params, buffers=buffers)


def check_pixels(config: Config, weights: Weights) -> None:
    """Warns if the config normalizes pixels otherwise than the weights expect."""
    for key, value in weights.pixels.items():
        mine = tuple(config.augment[key]) if "augment" in config else value
        if len(mine) == len(value) and not np.allclose(mine, value, atol=1e-3):
            stated = ",".join(f"{x:g}" for x in value)
            log.warning("start: the weights expect --config.augment.%s=%s", key, stated)


def with_new_tokens(
    heads: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The heads of a file; the bias of tokens that it does not have is 0."""
    bias = heads.get("token_bias")
    if bias is None or "token_bias" not in params:
        return dict(heads)
    more = max(len(params["token_bias"]) - len(bias), 0)
    return dict(heads) | {"token_bias": np.pad(bias, (0, more))}


def encoder_tensors(state: TrainState) -> dict[str, Any]:
    """The parameters and the BatchNorm statistics of the trained encoder, by name."""
    params = convert.flat(state.params["encoder"])
    for tree in encoders(state.buffers):
        named = convert.flat(tree)
        if named and not named.keys() & params.keys():
            return params | named
    return params


def encoders(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Yields every subtree of the name "encoder"."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "encoder" and isinstance(value, Mapping):
                yield value
            else:
                yield from encoders(value)


def fitted(
    config: Config, weights: Weights, shapes: Mapping[str, Any], sections: tuple[str, str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors for an encoder with these shapes, and notes on what was resized.

    Args:
      config: the whole config.
      weights: what was read.
      shapes: {our name: anything with a shape} of the encoder.
      sections: the sections of the config with the path and with the encoder, as `SECTIONS`.

    Raises:
      UserError: they do not fit; the message has the values of the section that would.
    """
    of_path, of_encoder = sections
    misfit = partial(misfit_of, weights, of_path)
    section = dict(config[of_encoder])
    wrong = architecture.differences(weights.model, section)
    if wrong:
        cure = architecture.as_flags(weights.model, wrong, of_encoder)
        raise misfit(f"has another encoder than config.{of_encoder}; use {cure}")
    channels = config.data.channels
    try:
        tensors, notes = adapt.fit(weights.encoder, weights.model, section, channels, shapes)
    except UserError as error:
        raise misfit(str(error)) from None
    for key, value in shapes.items():
        if key not in tensors:
            raise misfit(f"lacks {key}")
        if tensors[key].shape != tuple(value.shape):
            raise misfit(f"has {key} {tensors[key].shape}, and not {tuple(value.shape)}")
    if extra := sorted(tensors.keys() - shapes.keys()):
        raise misfit(f"has {extra[0]}, and config.{of_encoder} has not")
    return tensors, notes


def misfit_of(weights: Weights, section: str, problem: str) -> UserError:
    """The error for weights, of the path in a section, that do not fit the config."""
    return ConfigError(
        f"config.{section}.path",
        weights.path,
        problem,
        f"jssl config --from={weights.path} prints the section that fits",
    )


def log_start(use: str, weights: Weights, notes: list[str]) -> None:
    """Logs what the weights are used for, what was resized, and what is not used."""
    log.info(
        "%s %s (%s): %d tensors of the encoder",
        use,
        weights.path,
        weights.layout,
        len(weights.encoder),
    )
    for note in notes:
        log.info("%s: %s", use.partition(" ")[0], note)
    if weights.unused:
        shown = ", ".join(weights.unused[:4])
        more = f" and {len(weights.unused) - 4} more" if weights.unused[4:] else ""
        log.info("%s: not used: %s%s", use.partition(" ")[0], shown, more)


def replaced(tree: Any, encoder: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> Any:
    """A tree of parameters or buffers in which every "encoder" has the given tensors.

    heads: {name in the tree: array} of other parts; one of another shape is left out, and logged.
    """
    result = {}
    for key, value in tree.items():
        below = {name[len(key) + 1 :]: x for name, x in heads.items() if name.startswith(f"{key}/")}
        if key == "encoder" and isinstance(value, Mapping):
            result[key] = put_all(value, convert.like(value, encoder)) if value else value
        elif isinstance(value, Mapping):
            result[key] = replaced(value, encoder, below)
        elif key in heads and heads[key].shape == value.shape:
            result[key] = put(value, heads[key])
        else:
            if key in heads:
                log.info("start: %s %s is drawn anew, as %s", key, heads[key].shape, value.shape)
            result[key] = value
    return result


def put_all(old: Any, new: Any) -> Any:
    """Arrays with the placement of others of the same structure."""
    return jax.tree.map(put, old, new)


def put(old: jax.Array, new: np.ndarray) -> jax.Array:
    """An array with the dtype and the placement of another one."""
    value = np.asarray(new).astype(old.dtype)
    return jax.make_array_from_callback(value.shape, old.sharding, lambda index: value[index])
