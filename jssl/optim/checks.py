"""Checks of the config section `optim`."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from jssl.config import ConfigError, UserError, suggest
from jssl.optim.muon import path_name
from jssl.recipes import DEFAULTS, SCHEDULES_WITH, USED_BY


def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Raises `UserError` for a setting of another optimizer that is not at its default."""
    for key, value in settings.items():
        default = DEFAULTS["optim"][key]
        if name not in USED_BY[key] and value != default:
            raise ConfigError(
                f"config.optim.{key}", value, f"means nothing to {name}", f"set it to {default!r}"
            )


def check_schedule(
    schedule: str, lr_final: float, drop_at: tuple[float, ...], drop_factor: float
) -> None:
    """Raises `UserError` for a setting of another schedule that is not at its default, and for
    schedule "steps" without `drop_at`."""
    settings = {"lr_final": lr_final, "drop_at": drop_at, "drop_factor": drop_factor}
    for key, value in settings.items():
        default = DEFAULTS["optim"][key]
        if schedule not in SCHEDULES_WITH[key] and value != default:
            raise ConfigError(
                f"config.optim.{key}",
                value,
                f"means nothing to schedule {schedule!r}",
                f"set it to {default!r}",
            )
    if schedule == "steps" and not drop_at:
        raise ConfigError(
            "config.optim.drop_at",
            drop_at,
            "schedule 'steps' needs the shares of the run at which the rate drops",
            "try (0.5, 0.75)",
        )


def check_freeze(patterns: tuple[str, ...], freeze_steps: int) -> None:
    """Raises `UserError` for a freeze of no steps."""
    if patterns and not freeze_steps:
        raise ConfigError(
            "config.optim.freeze",
            patterns,
            "needs config.optim.freeze_steps, the number of steps",
            "set that (-1: for ever), or --config.optim.freeze=()",
        )


def check_pairs(lr_factors: Any) -> None:
    """Raises `UserError` unless all elements are pairs."""
    if any(not isinstance(pair, tuple) or len(pair) != 2 for pair in lr_factors):
        raise UserError(
            f"--config.optim.lr_factors={lr_factors}: must be pairs; try (('bias$', 0.1),)"
        )


def validate_patterns(
    tx: optax.GradientTransformation, per_tensor: str, patterns: dict[str, Sequence[str]]
) -> optax.GradientTransformation:
    """`tx` with checks of the patterns and of scanned layers.

    Args:
      tx: the optimizer.
      per_tensor: the name of an operation that treats each tensor separately, or "". Scanned layers
        are one tensor, so they are an error then.
      patterns: {key of ``config.optim``: its patterns}.

    Raises:
      UserError: a pattern is no regular expression; or, from `init`, a pattern matches no
        parameter, or layers are scanned.
    """
    for key, of_key in patterns.items():
        for pattern in of_key:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise UserError(
                    f"--config.optim.{key}={pattern!r}: no regular expression ({error}); correct it"
                ) from None

    def init(params):
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        names = [path_name(path) for path, _ in flat]
        for key, of_key in patterns.items():
            for pattern in of_key:
                if not any(re.search(pattern, name) for name in names):
                    raise ConfigError(
                        f"config.optim.{key}",
                        pattern,
                        "matches no parameter",
                        suggest(pattern, names),
                    )
        if per_tensor and any("/layers/" in name for name in names):
            problem = f"{per_tensor} takes scanned layers for one"
            raise ConfigError("config.model.scan", True, problem, "set it to False")
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)
