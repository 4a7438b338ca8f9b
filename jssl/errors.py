"""What is said of wrong input: an error of one line, and the nearest name that is known."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. One line: key, value, cure. The command exits with 2."""


def near(word: object, choices: Iterable) -> str:
    """The cure for a name that is not known: the nearest known one, and all, if they are few;
    some of them, if there are many and none is near."""
    known = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    cure = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 12 or not close:
        more = f" and {len(known) - 12} more" if len(known) > 14 else ""
        shown = known[:12] if more else known
        cure.append(f"known: {', '.join(shown) or 'none'}{more}")
    return " ".join(cure)
