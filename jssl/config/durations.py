"""Durations: a number of steps, or "100 epochs", "5e6 examples", "10 percent" of all steps.

A recipe and the command line may give any of these wherever a key counts steps
(`jssl.config.values.Steps`). They become steps once, when the number of examples is known, so that
another batch size or another data set leaves nothing stale. As in published schedules, the last,
partial step of a duration is left out.
"""

from typing import Any

import ml_collections

from jssl import methods
from jssl.config import flatten, schema, values
from jssl.errors import ConfigError, UserError, short


def resolved(config: ml_collections.ConfigDict, examples: int) -> ml_collections.ConfigDict:
    """Returns a copy of the config in which every duration is a number of steps (int), at least 1.

    Args:
      config: a whole config.
      examples: the size of the data set; 0 if it is not known yet: then nothing is resolved.

    Raises:
      UserError: a key does not allow the number of steps.
    """
    texts = {key: text for key, text in flatten(config).items() if values.is_duration(text)}
    texts = {key: text for key, text in texts.items() if values.counts_steps(kind(config, key))}
    if not texts or not examples:
        return config
    total: Any = config.steps
    batch_size: Any = config.batch_size
    if values.is_duration(total):
        total = steps("config.steps", total, examples, batch_size, 0)
    numbers = {
        key: steps(key, text, examples, batch_size, 0 if key == "config.steps" else total)
        for key, text in texts.items()
    }
    for key, number in numbers.items():
        if wrong := values.wrong(number, kind(config, key)):
            raise UserError(
                f"--{key}={short(texts[key])}: {number} steps of the data here; {wrong}"
            )
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(
        {key.removeprefix("config."): number for key, number in numbers.items()}
    )
    return config.lock()


def steps(key: str, text: str, examples: int, batch_size: int, all_steps: int) -> int:
    """Converts a duration to steps, rounded down, at least 1.

    Args:
      key: the key of the duration, for messages.
      text: the duration, as in "10 epochs".
      examples: the size of the data set.
      batch_size: examples per step.
      all_steps: the steps of the run; 0 if `text` may not be a percentage of them.

    Raises:
      UserError: `text` is a percentage and `all_steps` is 0.
    """
    amount, unit = values.duration(text)
    if unit == "percent":
        if not all_steps:
            raise ConfigError(key, text, "a share of itself", "give steps, epochs or examples")
        number = amount * all_steps / 100
    elif unit == "epochs":
        number = amount * examples / batch_size
    elif unit == "examples":
        number = amount / batch_size
    else:
        number = amount
    return max(int(number + 1e-9), 1) if amount > 0 else 0


def kind(config: ml_collections.ConfigDict, key: str) -> object:
    """Returns the kind of a key, ``config.a.b`` or ``config.a``; `object` for an unknown key."""
    section, _, name = key.removeprefix("config.").rpartition(".")
    if section:
        return schema.SECTIONS.get(section, {}).get(name, object)
    method: Any = config.method
    own = getattr(methods.module(method), "KEYS", {})
    return {**own, **schema.TOP}.get(name, object)
