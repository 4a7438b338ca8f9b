"""Checks whether a program fits in memory, and advises if it does not.

An accelerator reports it, as RESOURCE_EXHAUSTED. On a CPU the kernel would end the process
silently, so there the needs of the compiled program are compared with the free memory before it
runs.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jssl.core import Metrics, TrainState
from jssl.errors import UserError
from jssl.parallel import mesh

if TYPE_CHECKING:
    from jssl.training.setup import Run

USABLE = 0.9  # share of the free memory; the rest is for memory that is not counted
SIZE = re.compile(r"([\d.]+)\s*(bytes|B|[KMGT]i?B?)\b")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Step:
    """A jitted step; the first call applies `check` to it.

    Args:
      run: the run.
      jitted: a result of `jax.jit`, (state, held, fed) -> (state, metrics).
    """

    def __init__(self, run: Run, jitted: Any) -> None:
        self.run = run
        self.jitted = jitted
        self.checked = False

    def __call__(self, state: TrainState, held: Any, fed: Any) -> tuple[TrainState, Metrics]:
        if not self.checked:
            # The program that is compiled here is the one that the call below uses.
            check(self.jitted.lower(state, held, fed).compile(), self.run)
            self.checked = True
        return self.jitted(state, held, fed)

    def lower(self, *arguments: Any) -> Any:
        """As `lower` of the result of `jax.jit`."""
        return self.jitted.lower(*arguments)


def check(compiled: Any, run: Run, batch: bool = True) -> None:
    """Checks, on CPUs, that a compiled program needs no more than the free memory.

    Args:
      compiled: a result of `jax.stages.Lowered.compile`.
      run: the run.
      batch: whether the needs grow with the batch.

    Raises:
      UserError: it needs more.
    """
    devices = run.mesh.local_devices
    free = free_bytes()
    stats = compiled.memory_analysis()
    if devices[0].platform != "cpu" or free is None or stats is None:
        return
    new = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    if new * len(devices) > free:
        raise UserError(advice(run, new * len(devices), free, batch))


@contextlib.contextmanager
def explained(run: Run, batch: bool = True) -> Iterator[None]:
    """Turns the error of a device without free memory into a `UserError`."""
    try:
        yield
    except Exception as error:
        if not (needed := exhausted(error)):
            raise
        raise UserError(advice(run, needed, None, batch)) from error


def exhausted(error: BaseException) -> int:
    """Returns the bytes of a failed allocation, 1 if unknown; 0 for errors of other causes."""
    text = str(error)
    if isinstance(error, MemoryError):
        return 1
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return 0
    sizes = [float(n) * UNITS.get(unit[0], 1) for n, unit in SIZE.findall(text) if n != "."]
    return max([1, *map(int, sizes)])


def advice(run: Run, needed: int, free: int | None, batch: bool) -> str:
    """Describes in one line what does not fit, and proposes a batch size or an accumulation.

    The needs of a step grow with the examples of a micro-batch, config.batch_size over
    config.accumulate.

    Args:
      run: the run.
      needed: bytes.
      free: bytes; None if unknown: then it proposes half of the present size.
      batch: whether the needs grow with the batch.
    """
    config = run.config
    device = run.mesh.local_devices[0].device_kind
    size = f" ({needed / 2**30:,.1f} GiB" if needed > 1 else ""
    room = f", {free / 2**30:,.1f} GiB free)" if size and free is not None else size and ")"
    if not batch:
        return (
            f"--config.model and --config.augment do not fit in the memory of {device}{size}{room} "
            "even without a batch; use a smaller model or image (config.augment.size)"
        )
    share = 0.5 if free is None else USABLE * free / needed
    sizes = smaller_batches(run, share)
    cures = [f"--config.batch_size={sizes[0]}"] if sizes else []
    if count := more_parts(run, share):
        kept = ", config.grad_cache=True" if config.grad_cache else ""
        cures.append(f"--config.accumulate={count}{kept}")
    return (
        f"--config.batch_size={config.batch_size} with --config.accumulate={config.accumulate} "
        f"does not fit in the memory of {device}{size}{room}; "
        + (f"try {' or '.join(cures)}, or " if cures else "no batch would fit: ")
        + "use a smaller --config.model.name, or smaller views (--config.augment.size)"
    )


def smaller_batches(run: Run, share: float) -> list[int]:
    """Lists the halved batch sizes, largest first, that need at most `share` of the memory.

    The devices, config.accumulate and the steps of a discriminator divide them.
    """
    config = run.config
    parts = mesh.batch_parts(run.mesh) * config.accumulate * run.method.turns
    sizes = []
    size = config.batch_size
    while size % 2 == 0 and size // 2 >= max(2, parts):
        size //= 2
        if size % parts == 0 and size <= share * config.batch_size:
            sizes.append(size)
    return sizes


def more_parts(run: Run, share: float) -> int:
    """Returns the smallest doubled config.accumulate that needs at most `share` of the memory.

    It divides the batch; 0 if there is none, or if the method does not accumulate.
    """
    config = run.config
    if not run.method.accumulates:
        return 0
    devices = mesh.batch_parts(run.mesh)
    count = config.accumulate
    while config.batch_size % (2 * count * devices) == 0:
        count *= 2
        if config.accumulate / count <= share:
            return count
    return 0


def free_bytes(proc: str = "/proc", groups: str = "/sys/fs/cgroup") -> int | None:
    """Returns the bytes of memory that the machine and the control groups leave to this process.

    None if the system does not report them.
    """
    candidates = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = pathlib.Path(proc, "meminfo").read_text()
        candidates += [int(kb) * 1024 for kb in re.findall(r"MemAvailable:\s*(\d+)", text)]
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = pathlib.Path(proc, "self/cgroup").read_text().splitlines()
        for line in own:
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                candidates += list(limits(pathlib.Path(groups, kinds), path.strip("/")))
    return min(candidates, default=None)


def limits(root: pathlib.Path, path: str) -> Iterator[int]:
    """Yields the free bytes of the control group at `path` below `root`, and of its parents."""
    here = root / path
    names = ("memory.max", "memory.current", "inactive_file")
    if root.name == "memory":  # version 1
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for folder in (here, *here.parents):
        with contextlib.suppress(OSError, ValueError):
            limit, used = ((folder / name).read_text().strip() for name in names[:2])
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if limit != "max":
                yield int(limit) - int(used) + int(stat.get(names[2], 0))
        if folder == root:
            return
