"""Whether a program fits in memory, and what to say when it does not.

An accelerator says so itself, as RESOURCE_EXHAUSTED. On a CPU the kernel would end the process
without a word, so there the compiled program's needs are compared with what is free before it runs.
"""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator

from jssl.errors import UserError
from jssl.parallel import mesh

USABLE = 0.9  # of what is free; the rest is for what is not counted
SIZE = re.compile(r"([\d.]+)\s*(bytes|B|[KMGT]i?B?)\b")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Step:
    """A jitted step that is checked by `check` when it is called for the first time."""

    def __init__(self, run, jitted: Callable):
        self.run = run
        self.jitted = jitted
        self.checked = False

    def __call__(self, state, held, fed):
        if not self.checked:
            # The program that is compiled here is the one that the call below uses.
            check(self.jitted.lower(state, held, fed).compile(), self.run)
            self.checked = True
        return self.jitted(state, held, fed)

    def lower(self, *arguments):
        """As of `jax.jit`."""
        return self.jitted.lower(*arguments)


def check(compiled, run, batch: bool = True) -> None:
    """`UserError` if a compiled program needs more than this machine has free, where its devices
    are CPUs. `batch`: whether its needs grow with the batch."""
    devices = run.mesh.local_devices
    free = free_bytes()
    stats = compiled.memory_analysis()
    if devices[0].platform != "cpu" or free is None or stats is None:
        return
    new = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    if new * len(devices) > free:
        raise UserError(advice(run, new * len(devices), free, batch))


@contextlib.contextmanager
def explained(run, batch: bool = True) -> Iterator[None]:
    """Turns an error of a device whose memory is used up into a `UserError`."""
    try:
        yield
    except Exception as error:
        if not (needed := exhausted(error)):
            raise
        raise UserError(advice(run, needed, None, batch)) from error


def exhausted(error: BaseException) -> int:
    """The bytes that could not be had, if `error` says that memory is used up (1 if it does not say
    how many); else 0."""
    text = str(error)
    if isinstance(error, MemoryError):
        return 1
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return 0
    sizes = [float(n) * UNITS.get(unit[0], 1) for n, unit in SIZE.findall(text) if n != "."]
    return max([1, *map(int, sizes)])


def advice(run, needed: int, free: int | None, batch: bool) -> str:
    """One line: what does not fit, and the batch or the accumulation that would.

    The needs of a step grow with the examples that are in it at once, config.batch_size over
    config.accumulate. Where `free` is not known, half of what was tried is proposed.
    """
    config = run.config
    device = run.mesh.local_devices[0].device_kind
    size = f" ({needed / 2**30:,.1f} GiB" if needed > 1 else ""
    room = f", {free / 2**30:,.1f} GiB free)" if size and free is not None else size and ")"
    if not batch:
        return (
            f"config.model and config.augment do not fit in the memory of {device}{size}{room} "
            "even without a batch; use a smaller model or image (config.augment.size)"
        )
    share = 0.5 if free is None else USABLE * free / needed
    sizes = smaller_batches(run, share)
    cures = [f"config.batch_size={sizes[0]}"] if sizes else []
    if count := more_parts(run, share):
        kept = ", config.grad_cache=True" if config.grad_cache else ""
        cures.append(f"config.accumulate={count}{kept}")
    return (
        f"config.batch_size={config.batch_size} with config.accumulate={config.accumulate} does "
        f"not fit in the memory of {device}{size}{room}; "
        + (f"try {' or '.join(cures)}, or " if cures else "no batch would fit: ")
        + "use a smaller model (config.model) or image (config.augment.size)"
    )


def smaller_batches(run, share: float) -> list[int]:
    """The halvings of the batch, largest first, that need at most `share` of the whole one's
    memory, and that the devices and config.accumulate divide."""
    config = run.config
    parts = mesh.batch_parts(run.mesh) * config.accumulate
    sizes = []
    size = config.batch_size
    while size % 2 == 0 and size // 2 >= max(2, parts):
        size //= 2
        if size % parts == 0 and size <= share * config.batch_size:
            sizes.append(size)
    return sizes


def more_parts(run, share: float) -> int:
    """The smallest doubling of config.accumulate whose micro-batches need at most `share` of the
    present ones' memory, and which divides the batch; 0 if there is none."""
    config = run.config
    devices = mesh.batch_parts(run.mesh)
    count = config.accumulate
    while config.batch_size % (2 * count * devices) == 0:
        count *= 2
        if config.accumulate / count <= share:
            return count
    return 0


def free_bytes(proc: str = "/proc", groups: str = "/sys/fs/cgroup") -> int | None:
    """Bytes of memory that this process can still have: of the machine, and of its control groups;
    None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = pathlib.Path(proc, "meminfo").read_text()
        found += [int(kb) * 1024 for kb in re.findall(r"MemAvailable:\s*(\d+)", text)]
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = pathlib.Path(proc, "self/cgroup").read_text().splitlines()
        for line in own:
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                found += list(limits(pathlib.Path(groups, kinds), path.strip("/")))
    return min(found, default=None)


def limits(root: pathlib.Path, path: str) -> Iterator[int]:
    """Bytes free in the control group at `path` below `root`, and in those above it."""
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
