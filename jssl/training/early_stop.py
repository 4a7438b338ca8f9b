"""Ends a run after `eval.patience` evaluations without a better probe.

The decision is a function of the stored scores alone (`jssl.workdir.retention`), so a run that is
started again makes the same decision.
"""

from collections.abc import Mapping

from jssl.config import Config, ConfigError
from jssl.parallel import agreement
from jssl.workdir.best import PROBE
from jssl.workdir.checkpoint import Checkpoints


def check(config: Config, evaluates: bool) -> None:
    """Raises `UserError` if ``eval.patience`` is set and the run has no evaluations."""
    if config.eval.patience and not evaluates:
        raise ConfigError(
            "config.eval.patience",
            config.eval.patience,
            "needs evaluations, and this run has none",
            "set --config.eval.every and use labeled data, or set --config.eval.patience=0",
        )


def why(scores: Mapping[int, float], step: int, patience: int, since: int = 0) -> str:
    """Returns the reason to end a run after `step`, as a sentence; "" if it goes on.

    Args:
      scores: {step: accuracy} of all evaluations.
      step: the present step; later scores do not count.
      patience: number of evaluations without a better probe that end the run; 0: it never ends.
      since: the step at which the run was extended; evaluations up to it are not counted, but a
        later one must be better than they are.
    """
    known = {at: score for at, score in sorted(scores.items()) if at <= step}
    if not patience or not known:
        return ""
    best = max(known, key=lambda at: known[at])  # the first of equals
    worse = sum(at > max(best, since) for at in known)
    if worse < patience:
        return ""
    return (
        f"the run ended early after step {step}: {worse} evaluations found no better {PROBE} than "
        f"{known[best]:.4f} of step {best} (--config.eval.patience={patience})"
    )


class EarlyStop:
    """Decides whether a run ends early; all processes call it after the same steps.

    Args:
      checkpoints: the checkpoints of the run, which hold its scores.
      patience: ``eval.patience``.
      since: the step at which the run was extended; 0 if it was not.
    """

    def __init__(self, checkpoints: Checkpoints, patience: int, since: int) -> None:
        self.checkpoints = checkpoints
        self.patience = patience
        self.since = since

    def __call__(self, step: int) -> str:
        """Returns the reason to end after `step`, the same on all processes; "": go on."""
        if not self.patience:
            return ""
        return agreement.first(
            lambda: why(self.checkpoints.scores, step, self.patience, self.since)
        )
