"""Optimizers outside jssl, by a dotted name: ``config.optim.name="optax.lion"``.

The function returns an optax transformation. It is called with those of these keyword arguments
that it takes:

    learning_rate                 a schedule, step -> rate (`jssl.optim.schedules.learning_rate`)
    weight_decay                  ``optim.weight_decay``; a schedule if it has a final value
    mask, weight_decay_mask       params -> tree of bool, False where ``optim.no_decay`` matches
    momentum nesterov b1 b2 eps   the keys of ``config.optim`` with these names
"""

from collections.abc import Callable
from typing import Any

import optax

from jssl.config import ConfigError, plugins


def build(
    name: str,
    rate: optax.Schedule,
    decay: optax.Schedule | float,
    keep: Callable[[Any], Any],
    **settings: Any,
) -> optax.GradientTransformation:
    """Calls the function that a dotted name means.

    Args:
      name: the dotted name.
      rate: the learning rate.
      decay: the weight decay.
      keep: params -> tree of bool, True for parameters that decay.
      **settings: momentum, nesterov, b1, b2 and eps of ``config.optim``.

    Raises:
      UserError: the function takes no learning rate, takes no weight decay although there is one,
        or returns no optax transformation.
    """
    function = plugins.resolve("config.optim.name", name)
    offered = dict(settings, learning_rate=rate, mask=keep, weight_decay_mask=keep)
    given = plugins.taken(function, offered | {"weight_decay": decay})
    if "learning_rate" not in given:
        raise ConfigError(
            "config.optim.name", name, "takes no argument learning_rate", "add it to the function"
        )
    if "weight_decay" not in given and decay != 0:
        raise ConfigError(
            "config.optim.weight_decay",
            decay,
            f"means nothing to {name}",
            "set it to 0, or add the argument weight_decay to the function",
        )
    made = function(**given)
    if not isinstance(made, optax.GradientTransformation):
        raise ConfigError(
            "config.optim.name",
            name,
            f"returns {type(made).__name__}",
            "it must return an optax.GradientTransformation",
        )
    return made
