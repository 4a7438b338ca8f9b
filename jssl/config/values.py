"""The kinds of values that a config may have, and the functions that check a value.

A kind is a type hint: ``int``, ``float``, ``str``, ``bool``, ``Literal["a", "b"]``, a tuple of
kinds, or one of these with a rule, `Range` for numbers and `Length` for tuples:

    def probe(*, lrs: Annotated[tuple[Positive, ...], Length(1)], epochs: Count): ...

So the signature of a function is the schema of its section (`jssl.config.call_with_section`).
A string among the rules is the meaning of the key, for people (`jssl.config.reference`):

    KEYS = {"temperature": Annotated[Positive, "divides the similarities (tau)"]}

Every number is finite. A float fits float32. An int fits int32, unless its range allows more. A
bool is no number. Other hints (``object``, classes) accept every value but infinity and NaN.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from jssl.errors import ConfigError, UserError, short, suggest

INT = 2**31 - 1  # JAX computes steps, sizes and counts in int32
SMALLEST = 1.2e-38
LARGEST = 3.4e38  # of float32; a value nearer to 0 than `SMALLEST` becomes 0


class Range(NamedTuple):
    """Numbers from `low` to `high`.

    Attributes:
      low: the lower end.
      high: the upper end.
      above: whether `low` itself is excluded.
      below: whether `high` itself is excluded.
      also: other allowed numbers, which usually switch a feature off.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    also: tuple = ()

    def has(self, value: float) -> bool:
        """Whether the range contains the number."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return value in self.also or (over and under)

    def text(self, value: float) -> str:
        """Describes the range for a wrong value, as in "above 0"."""
        first = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        last = f"below {self.high:g}" if self.below else f"at most {whole(self.high)}"
        bounds = f"{first} and {last}"
        if self.high >= INT - 1:  # a limit that few values reach
            bounds = first if value < self.high else last
        elif not self.above and not self.below:
            bounds = f"{self.low:g} to {whole(self.high)}"
        return " or ".join([bounds, *(f"{other:g}" for other in self.also)])

    def nearest(self, value: float) -> str:
        """Returns a cure, as in "; try 1", if an end of the range is a sensible value."""
        if value < self.low and not self.above and self.low > -INT:
            return f"; try {whole(self.low)}"
        if self.high < value and not self.below and self.high < INT - 1:
            return f"; try {whole(self.high)}"
        return ""


class Length(NamedTuple):
    """Tuples of at least `least` elements, in ascending order if `ordered`."""

    least: int
    ordered: bool = False


class Duration:
    """Marks an int that counts steps: a config may also hold "10 epochs"
    (`jssl.config.durations`)."""


Count = Annotated[int, Range(1, INT)]
Whole = Annotated[int, Range(0, INT)]  # where 0 is often "off", or "all"
Steps = Annotated[int, Range(1, INT - 1), Duration()]  # the step, an int32, counts one further
Every = Annotated[int, Range(0, INT), Duration()]  # 0: never
Pixels = Annotated[int, Range(1, 2**14)]
Width = Annotated[int, Range(1, 2**20)]  # of a layer
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Above = Annotated[float, Range(0, 1, above=True)]  # a share above 0
Part = Annotated[float, Range(0, 1, above=True, below=True)]
Rate = Annotated[float, Range(0, 1, below=True)]  # of dropout, of a moving average
Widths = Annotated[tuple[Width, ...], Length(1)]
Span = Annotated[tuple[Positive, Positive], Length(2, ordered=True)]
PartSpan = Annotated[tuple[Above, Above], Length(2, ordered=True)]
ShareSpan = Annotated[tuple[Share, Share], Length(2, ordered=True)]


def check(key: str, value: Any, kind: Any) -> None:
    """Raises `UserError`, with the key in its message, unless `value` is of the kind."""
    if problem := wrong(value, kind):
        raise UserError(f"--{key}={short(value)}: {problem}")


def check_all(prefix: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Checks each of `values`; raises `UserError` for a key that `kinds` lacks."""
    if not hasattr(values, "items"):
        raise ConfigError(prefix, values, "must be a section", f"its keys: {', '.join(kinds)}")
    for key, value in values.items():
        if key not in kinds:
            raise UserError(f"--{prefix}.{key} is not a key; {suggest(key, kinds)}")
        check(f"{prefix}.{key}", value, kinds[key])


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns {name of an argument: its kind} of a signature; `object` without a hint."""
    parameters = inspect.signature(function, eval_str=True).parameters
    bare = inspect.Parameter.empty
    return {
        name: object if parameter.annotation is bare else parameter.annotation
        for name, parameter in parameters.items()
    }


def documented_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """As `kinds_of`, with the meaning of each argument (`argument_meanings`) in its kind."""
    meanings = argument_meanings(function)
    return {
        name: Annotated[kind, meanings[name]] if name in meanings else kind
        for name, kind in kinds_of(function).items()
    }


ARGUMENTS = re.compile(r"^Args:\n((?:  .*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", re.MULTILINE)


def argument_meanings(function: Callable[..., Any]) -> dict[str, str]:
    """Returns {argument: first sentence of its entry under ``Args:``} of a function's docstring."""
    section = ARGUMENTS.search(inspect.getdoc(function) or "")
    meanings: dict[str, str] = {}
    for names, text in ENTRY.findall(section[1] if section else ""):
        sentence = re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
        meanings |= dict.fromkeys(names.split(", "), sentence)
    return meanings


def wrong(value: Any, kind: Any) -> str:
    """Describes the fault of the value, as in "must be above 0"; "" if it is of the kind."""
    base, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if isinstance(value, str) and counts_steps(kind):
        return wrong_duration(value)
    rules = [rule for rule in rules if not isinstance(rule, Duration | str)]
    if get_origin(base) is Literal:
        choices = get_args(base)
        problem = "" if value in choices else f"not known; {suggest(value, choices)}"
    elif base in (int, float):
        problem = wrong_number(value, base, rules)
    elif base is tuple or get_origin(base) is tuple:
        problem = wrong_tuple(value, get_args(base), rules)
    elif base in (str, bool):
        problem = "" if isinstance(value, base) else f"must be of type {base.__name__}"
    else:
        problem = "" if all_finite(value) else "must be finite"
    return problem


UNITS = ("steps", "epochs", "examples", "percent")
DURATION = re.compile(r"\s*(\d+\.?\d*(?:e\d+)?)\s*(step|epoch|example|percent|%)s?\s*")


def is_duration(value: Any) -> bool:
    """Whether a value is written as a duration with a unit, as in "100 epochs"."""
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


def duration(text: str) -> tuple[float, str]:
    """Splits a duration into its amount and its unit, one of `UNITS`.

    Raises:
      ValueError: `text` is no duration.
    """
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    amount, unit = match.groups()
    return float(amount), "percent" if unit in ("percent", "%") else f"{unit}s"


def counts_steps(kind: Any) -> bool:
    """Whether values of this kind may be durations."""
    return any(isinstance(rule, Duration) for rule in get_args(kind)[1:])


def wrong_duration(value: str) -> str:
    """`wrong` of a string under a key that counts steps."""
    if not is_duration(value):
        return f"no duration; write steps, or a number of {', '.join(UNITS[1:])}: '10 epochs'"
    return "" if duration(value)[0] <= INT else f"must be at most {INT}"


def example(kind: Any) -> Any:
    """Returns a value of a kind, such as the middle of a range; None for kinds of other values."""
    base, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(base) is Literal:
        return get_args(base)[0]
    if base is tuple or get_origin(base) is tuple:
        kinds = [inner for inner in get_args(base) if inner is not Ellipsis]
        return tuple(example(inner) for inner in kinds)
    if base in (int, float):
        limits = next((rule for rule in rules if isinstance(rule, Range)), Range(0, 1))
        high = min(limits.high, limits.low + 1)
        return base(high if base is int else (limits.low + high) / 2)
    return base() if base in (bool, str) else None


def wrong_number(value: Any, base: type, rules: list[Range]) -> str:
    """As `wrong`, for an int or a float with ranges."""
    types = (int,) if base is int else (int, float)
    ranges = rules or ([Range(-INT, INT)] if base is int else [])
    if not isinstance(value, types) or isinstance(value, bool):
        integral = isinstance(value, float) and value.is_integer() and abs(value) <= INT
        cure = f"; write {value:.0f}" if integral else ""
        return f"must be of type {base.__name__}{cure}"
    if not all_finite(value):
        return "must be finite"
    for allowed in ranges:
        if not allowed.has(value):
            return f"must be {allowed.text(value)}{allowed.nearest(value)}"
    if base is float and (abs(value) > LARGEST or 0 < abs(value) < SMALLEST):
        return f"must be a number of float32, {SMALLEST} to {LARGEST} or 0"
    return ""


def wrong_tuple(value: Any, kinds: tuple[Any, ...], rules: list[Length]) -> str:
    """As `wrong`, for a tuple or list whose elements have these kinds.

    (kind, ...) means any number of elements of one kind.
    """
    if not isinstance(value, tuple | list):
        return "must be of type tuple"
    if not kinds:
        return "" if all_finite(value) else "must be finite"
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        return f"must have {len(kinds)} elements, not {len(value)}"
    for rule in rules:
        if len(value) < rule.least:
            return f"must have at least {rule.least} element{'s' * (rule.least > 1)}"
    for element, kind in zip(value, kinds, strict=True):
        if problem := wrong(element, kind):
            return f"its element {short(element)} {problem}"
    if any(rule.ordered for rule in rules) and list(value) != sorted(value):
        return f"must ascend; try {tuple(sorted(value))}"
    return ""


def all_finite(value: Any) -> bool:
    """Whether every number in a value, or in a tuple of values, is finite."""
    if isinstance(value, tuple | list):
        return all(map(all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def whole(number: float) -> str:
    """Formats a number, without an exponent if it is whole."""
    return f"{number:.0f}" if number % 1 == 0 else f"{number:g}"
