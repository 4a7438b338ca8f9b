"""Exchange of values between the processes of a run on the host, and checks that they agree.

Every function here is collective: all processes call it, in the same order.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from jssl.config import UserError
from jssl.data.files import Damaged, Unreachable, one_line

T = TypeVar("T")
CHUNK = 4096  # bytes; messages are padded to a multiple, so that few shapes are compiled
LONGEST = 60  # characters of a value in a message


def everywhere(value: Any) -> list[Any]:
    """Gathers a JSON value from each process, in the order of the processes."""
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
    """Runs `local()` on the first process and returns its JSON value on all processes.

    An error is raised on all processes. Use it to read a shared folder: file servers may show a
    change to one process earlier than to another.
    """
    value = run_on_all_processes(lambda: local() if jax.process_index() == 0 else None)
    return everywhere(value)[0]


def run_on_all_processes(local: Callable[[], T]) -> T:
    """Runs `local()` on every process; an error on one process is raised on all.

    So no process waits for another one afterwards. The worst error is raised: `Unreachable`, a
    `UserError`, `Damaged`, then any other, which becomes a `ValueError` on the other processes.
    """
    value = None
    error: Exception | None = None
    try:
        value = local()
    except Exception as caught:
        error = caught
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return cast(T, value)
    reports = everywhere(_packed(error))
    failed = [(kind, index) for index, (kind, *_) in enumerate(reports) if kind]
    if not failed:
        return cast(T, value)
    worst, index = min(failed)
    if error is not None and _packed(error)[0] == worst:
        raise error
    raise _unpacked(index, *reports[index]) from error


def check(
    facts: Callable[[], Mapping[str, Any]], cure: str = "start all processes with the same"
) -> None:
    """Checks that all processes have the same facts.

    With a single process it does not call `facts`.

    Args:
      facts: returns {key: JSON value}.
      cure: the end of the message.

    Raises:
      UserError: on every process; the message names the first different fact and its two values.
    """
    if jax.process_count() == 1:
        return
    mine = json.loads(json.dumps(facts(), default=str))
    all_facts = everywhere(mine)
    keys = list(dict.fromkeys(key for process_facts in all_facts for key in process_facts))
    for key in keys:
        values = [process_facts.get(key, "not set") for process_facts in all_facts]
        for index, value in enumerate(values):
            if json.dumps(value, sort_keys=True) != json.dumps(values[0], sort_keys=True):
                raise UserError(
                    f"{key}={_short(values[0])} on process 0 and {_short(value)} on process "
                    f"{index}; {cure}"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _packed(error: Exception | None) -> list[Any]:
    """Converts an error to JSON: [rank of its kind (0: none), name, message]."""
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
