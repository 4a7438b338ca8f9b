"""What the processes of one run say to each other on the host, and agree on before they start.

Every function here is collective: all processes call it, in the same order.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jssl.config import UserError
from jssl.data.files import Damaged, Unreachable, one_line

T = TypeVar("T")
CHUNK = 4096  # bytes; messages are padded to a multiple, so that few shapes are compiled
LONGEST = 60  # characters of a value in a message


def everywhere(value: Any) -> list[Any]:
    """The JSON value that each process gives, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    data = json.dumps(value).encode()
    sizes = multihost_utils.process_allgather(np.int32(len(data))).reshape(-1)
    length = -(-int(sizes.max()) // CHUNK) * CHUNK
    padded = np.zeros(length, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), length)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def first(local: Callable[[], Any]) -> Any:
    """The JSON value that `local()` has on the first process, on all; it fails on all of them if it
    does there. For what is read from a shared folder: file servers may show it to one process
    earlier than to another."""
    value = run_on_all_processes(lambda: local() if jax.process_index() == 0 else None)
    return everywhere(value)[0]


def run_on_all_processes(local: Callable[[], T]) -> T:
    """`local()` on every process. It fails on all of them where it does on one, so that none waits
    for another in what follows.

    The worst error wins: `Unreachable`, a `UserError`, `Damaged`, then any other, which is a
    `ValueError` on the processes where it was not raised.
    """
    value = None
    error = None
    try:
        value = local()
    except Exception as found:
        error = found
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return value
    said = everywhere(_packed(error))
    failed = [(kind, index) for index, (kind, *_) in enumerate(said) if kind]
    if not failed:
        return value
    worst, index = min(failed)
    if error is not None and _packed(error)[0] == worst:
        raise error
    raise _unpacked(index, *said[index]) from error


def check(
    facts: Callable[[], Mapping[str, Any]], cure: str = "start all processes with the same"
) -> None:
    """`UserError` on every process, naming the first of `facts()` (key -> JSON value) that is not
    the same on all of them and the two values. One process alone agrees, and finds out nothing."""
    if jax.process_count() == 1:
        return
    mine = json.loads(json.dumps(facts(), default=str))
    said = everywhere(mine)
    keys = list(dict.fromkeys(key for one in said for key in one))
    for key in keys:
        values = [one.get(key, "not set") for one in said]
        for index, value in enumerate(values):
            if json.dumps(value, sort_keys=True) != json.dumps(values[0], sort_keys=True):
                raise UserError(
                    f"{key}={_short(values[0])} on process 0 and {_short(value)} on process "
                    f"{index}; {cure}"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _packed(error: Exception | None) -> list:
    """[rank of the kind, 0: none; name; message] of an error, as JSON."""
    if error is None:
        return [0, "", ""]
    name = getattr(error, "name", "")
    reason = getattr(error, "reason", one_line(error))
    if isinstance(error, Unreachable):
        return [1, name, reason]
    if isinstance(error, UserError):
        return [2, "", str(error)]
    if isinstance(error, Damaged):
        return [3, name, reason]
    return [4, "", f"{type(error).__name__}: {one_line(error)}"]


def _unpacked(index: int, kind: int, name: str, reason: str) -> Exception:
    reason = f"another process failed here: process {index}: {reason}"
    if kind == 1:
        return Unreachable(name, reason)
    if kind == 2:
        return UserError(reason)
    return Damaged(name, reason) if kind == 3 else ValueError(reason)
