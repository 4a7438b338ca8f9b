"""Reads metrics.jsonl, the log of a run: a JSON object in each line, {"step": 3, "loss": 0.1}."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from jssl.data import files

LINE = 2**20  # bytes; jssl writes no longer line to metrics.jsonl


def lines(path: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yields (bytes, object) of every line of metrics.jsonl; None for a line that jssl did not
    write."""
    with files.open_regular(path) as file:
        while line := file.readline(LINE):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield line, row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
