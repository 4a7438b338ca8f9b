"""Durations: a number of steps, or "100 epochs", "5e6 examples", "10 percent" of all steps.

A recipe and the command line may give any of these wherever a key counts steps
(`jssl.config.values.Steps`). They become steps once, when the number of examples is known, so that
another batch size or another data set leaves nothing stale. As in published schedules, the last,
partial step of a duration is left out.
"""

import ml_collections

from jssl import methods
from jssl.config import flatten, schema, values
from jssl.errors import UserError


def resolved(config: ml_collections.ConfigDict, examples: int) -> ml_collections.ConfigDict:
    """A copy of the config in which every duration is a number of steps (int), at least 1.

    Args:
      config: a whole config.
      examples: of the data set; 0 if that is not known yet, and then nothing is resolved.

    Raises:
      UserError: a number of steps that its key does not allow.
    """
    given = {key: text for key, text in flatten(config).items() if values.is_duration(text)}
    given = {key: text for key, text in given.items() if values.counts_steps(kind(config, key))}
    if not given or not examples:
        return config
    total = config.steps
    if values.is_duration(total):
        total = steps("config.steps", total, examples, config.batch_size, 0)
    found = {
        key: steps(key, text, examples, config.batch_size, 0 if key == "config.steps" else total)
        for key, text in given.items()
    }
    for key, number in found.items():
        if wrong := values.wrong(number, kind(config, key)):
            raise UserError(f"{key}={given[key]!r} is {number} steps of the data here; it {wrong}")
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(
        {key.removeprefix("config."): number for key, number in found.items()}
    )
    return config.lock()


def steps(key: str, text: str, examples: int, batch_size: int, all_steps: int) -> int:
    """The steps of a duration, rounded down, at least 1; `all_steps` 0: it may be no share."""
    amount, unit = values.duration(text)
    if unit == "percent":
        if not all_steps:
            raise UserError(f"{key}={text!r} is a share of itself; give steps, epochs or examples")
        number = amount * all_steps / 100
    elif unit == "epochs":
        number = amount * examples / batch_size
    elif unit == "examples":
        number = amount / batch_size
    else:
        number = amount
    return max(int(number + 1e-9), 1) if amount > 0 else 0


def kind(config: ml_collections.ConfigDict, key: str) -> object:
    """The kind of a key, ``config.a.b`` or ``config.a``; object if no schema has it."""
    section, _, name = key.removeprefix("config.").rpartition(".")
    if section:
        return schema.SECTIONS.get(section, {}).get(name, object)
    own = getattr(methods.module(config.method), "KEYS", {})
    return {**own, **schema.TOP}.get(name, object)
