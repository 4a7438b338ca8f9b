"""Fails if a measurement became worse beyond the noise: exit code 1 and one line for each.

    python benchmarks/compare.py OLD.json NEW.json --noise=0.1

Reads any two files of benchmarks/results from the same script and device. A list of rounds counts
by its median. --noise is the share by which a figure may be worse: take what the rounds of one
commit show on that machine (benchmarks/NOTES.md), 0.1 at the least on a shared one.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any

SMALLER = {"ms", "ms_per_step", "jssl", "compile_s", "first_s", "peak_bytes", "pss_mb"}
LARGER = {"examples_per_s", "items_per_s", "rate", "mfu"}


def figures(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yields (keys on the way, figure) of each measurement in a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from figures(inner, (*path, key))
    elif not path or path[-1] not in SMALLER | LARGER:
        if isinstance(value, list):
            for index, inner in enumerate(value):
                yield from figures(inner, (*path, str(index)))
    elif isinstance(value, list) and value and isinstance(value[0], (int, float)):
        yield path, statistics.median(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def devices(value: Any) -> set[str]:
    """Returns all values of "device" in a JSON value."""
    if isinstance(value, dict):
        own = {value["device"]} if isinstance(value.get("device"), str) else set()
        return own.union(*(devices(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(devices(inner) for inner in value))
    return set()


def worse(old: Any, new: Any, noise: float) -> tuple[list[str], int]:
    """Returns (one line for each figure that became worse, the number of figures in both)."""
    before = dict(figures(old))
    after = dict(figures(new))
    both = [path for path in before if path in after and before[path] and after[path]]
    lines = []
    for path in both:
        ratio = after[path] / before[path]
        cost = ratio if path[-1] in SMALLER else 1 / ratio
        if cost > 1 + noise:
            where = " / ".join(path)
            lines.append(f"{where}: {before[path]:g} -> {after[path]:g}, {cost - 1:.0%} worse")
    return lines, len(both)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--noise", type=float, default=0.1, help="a share; default 0.1")
    args = parser.parse_args()
    old = json.loads(args.old.read_text())
    new = json.loads(args.new.read_text())
    if devices(old) != devices(new):
        parser.error(f"different devices: {sorted(devices(old))} and {sorted(devices(new))}")
    lines, count = worse(old, new, args.noise)
    if not count:
        parser.error("the files have no figure in common")
    print("\n".join([*lines, f"{count} figures, {len(lines)} worse by more than {args.noise:.0%}"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
