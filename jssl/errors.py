"""What is said of wrong input: an error of one line, and the nearest name that is known."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. One line: key, value, cure. The command exits with 2."""


def near(word: object, choices: Iterable) -> str:
    """The cure for a name that is not known: the nearest known one, and all, if they are few."""
    known = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    cure = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 12 or not close:
        cure.append(f"known: {', '.join(known) or 'none'}")
    return " ".join(cure)
