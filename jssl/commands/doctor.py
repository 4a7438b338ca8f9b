"""`jssl doctor`: checks before a long run, in every process of it.

Start it like the run itself (the same srun, the same pod). Each check logs a line; `ok` is true if
no check has failed.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.commands.table import Args, Overrides
from jssl.config import Config, UserError, call_with_section, load
from jssl.data import host_batches
from jssl.data.files import Damaged
from jssl.data.source import Source
from jssl.parallel import agreement, mesh
from jssl.workdir import checksums, identity, run_folder
from jssl.workdir.retention import Retention

log = logging.getLogger("jssl")
SKEW = 5.0  # seconds between two clocks; above it logs and time limits are misleading
SHM = "/dev/shm"
WAITING = 3  # queued batches of one worker in `SHM`
ROOM = 10e9  # bytes free in a workdir below which checkpoints may not fit


def doctor(tree: ml_collections.ConfigDict | None, folder: str) -> dict[str, Any]:
    """Runs the checks.

    Args:
      tree: a whole config; None: no check of data.
      folder: a workdir; "": no check of a folder.

    Returns:
      {"ok", "processes", name of a check: its result or {"failed": reason}}.
    """
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "versions": run_folder.versions,
        "devices": devices,
        "collectives": collectives,
        "clocks": clocks,
    }
    if folder:
        checks["workdir"] = partial(writable, folder)
        checks["disk"] = partial(disk, folder)
        checks["run"] = partial(stored_run, folder, tree)
    if tree is not None:
        checks["shared memory"] = partial(shared_memory, Config(tree))
        checks["data"] = partial(data, Config(tree))
    report: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            report[name] = check()
        except (UserError, Damaged, OSError, RuntimeError, ValueError) as error:
            report[name] = {"failed": " ".join(str(error).split())[:300]}
        level = logging.ERROR if "failed" in report[name] else logging.INFO
        log.log(level, "%-12s %s", name, report[name].get("failed", report[name]))
    agreed = everywhere(not any("failed" in entry for entry in report.values()))
    return {"ok": bool(agreed.all()), "processes": jax.process_count(), **report}


def everywhere(value: Any) -> np.ndarray:
    """Gathers a number from each process, in their order."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(value))).reshape(-1)


def devices() -> dict[str, Any]:
    """Counts the devices of all processes; runs a matrix product on each local device."""
    kinds = sorted({device.device_kind for device in jax.devices()})

    def multiply() -> None:
        for device in jax.local_devices():
            x = jax.device_put(jnp.eye(256), device)
            if float((x @ x).sum()) != 256:
                raise RuntimeError(f"{device} cannot multiply")

    agreement.run_on_all_processes(multiply)
    counts = everywhere(jax.local_device_count())
    if len(set(counts.tolist())) > 1:
        raise RuntimeError(f"processes have different numbers of devices: {counts.tolist()}")
    stats = jax.local_devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return {"count": jax.device_count(), "kinds": kinds, "free_bytes": free or None}


def collectives(size: int = 2**22, times: int = 5) -> dict[str, Any]:
    """Checks and times an all-reduce of float32 [size] over all devices.

    bytes_per_s is per device, for a ring: 2 (n - 1) / n of the bytes.
    """
    device_mesh = call_with_section(
        mesh.make_mesh, {"data": -1, "fsdp": 1, "tensor": 1}, "mesh", devices=None
    )
    n = device_mesh.size
    split = NamedSharding(device_mesh, P(mesh.AXES))

    def row(index: Any) -> np.ndarray:
        return np.full((1, size), index[0].start or 0, np.float32)

    rows = jax.make_array_from_callback((n, size), split, row)
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(device_mesh, P()))
    total = add(rows).block_until_ready()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        add(rows).block_until_ready()
        seconds.append(time.perf_counter() - began)
    shard: Any = total.addressable_shards[0].data
    if float(shard[0]) != n * (n - 1) / 2:
        raise RuntimeError("a sum over all devices is wrong")
    best = sorted(seconds)[times // 2]
    return {"devices": n, "bytes_per_s": round(2 * (n - 1) / n * 4 * size / best), "ms": best * 1e3}


def clocks() -> dict[str, Any]:
    """Measures the difference of the clocks of all processes, right after they have met."""
    multihost_utils.sync_global_devices("clocks")
    times = everywhere(
        np.float32(time.time() % 1e5)
    )  # above a day, with a precision of a hundredth
    skew = float(times.max() - times.min())
    if skew > SKEW:
        raise RuntimeError(f"clocks are {skew:.1f} s apart; set them by NTP")
    return {"skew_s": skew}


def writable(folder: str) -> dict[str, Any]:
    """Checks that every process can write to the workdir and sees the files of all others."""
    path = run_folder.resolve(folder)
    name = everywhere(uuid.uuid4().int % 2**31)[0]
    mine = path / f".doctor-{name}-{jax.process_index()}"

    def write() -> None:
        path.mkdir(parents=True, exist_ok=True)
        mine.write_text("x")

    try:
        agreement.run_on_all_processes(write)
        seen = agreement.run_on_all_processes(lambda: len(list(path.glob(f".doctor-{name}-*"))))
    finally:
        with contextlib.suppress(OSError):  # the write may have failed
            mine.unlink()
    if seen != jax.process_count():
        raise RuntimeError(
            f"--workdir={folder}: {seen} of {jax.process_count()} processes' files are seen here; "
            "it must be one folder for all (NFS, Lustre, a bucket)"
        )
    return {"path": str(path), "processes": seen}


def disk(folder: str) -> dict[str, Any]:
    """Checks the free space of the workdir."""
    free = shutil.disk_usage(run_folder.resolve(folder)).free
    if free < ROOM:
        raise RuntimeError(f"--workdir={folder} has {free / 1e9:.1f} GB free; free some space")
    return {"free_bytes": free}


def stored_run(folder: str, tree: ml_collections.ConfigDict | None) -> dict[str, Any]:
    """Checks the run in the workdir.

    Its parts belong together, its newest checkpoint has not changed, and its config is `tree`,
    unless that is None.
    """

    def look() -> tuple[str | None, list[int]]:
        run_dir = run_folder.RunFolder(folder)
        run_dir.check_parts()
        if not run_dir.claimed:
            return None, []
        if tree is not None:
            run_dir.check(tree)
        mark = run_dir.mark
        checkpoints = run_dir.path / "checkpoints"
        steps = Retention(checkpoints, 1, 0).listed()
        run_dir.result()
        for step in steps:
            identity.check_note(checkpoints / str(step), step, mark)
        if steps:
            checksums.check(checkpoints / str(steps[-1]))
        return identity.short(mark.run), steps

    run, steps = agreement.run_on_all_processes(look)
    return {"run": run, "checkpoints": steps}


def shared_memory(config: Config) -> dict[str, Any]:
    """Checks the free space of /dev/shm, where data workers put their batches."""
    path = pathlib.Path(SHM)
    workers = 0 if config.data.on_device else config.data.workers
    if not path.is_dir():
        return {"free_bytes": None}
    free = shutil.disk_usage(path).free
    example = max(config.data.max_side**2 * config.data.channels, 8 * config.data.seq_len)
    batch = config.batch_size * example // jax.process_count()
    need = workers * WAITING * min(batch, host_batches._PART)
    if free < need:
        raise RuntimeError(
            f"{SHM} has {free / 1e6:,.0f} MB free, and {workers} data workers need "
            f"{need / 1e6:,.0f} MB there; start the container with a larger --shm-size, or use "
            "fewer config.data.workers"
        )
    return {"free_bytes": free, "needed_bytes": need}


def data(config: Config) -> dict[str, Any]:
    """Checks that every process opens the same data set.

    The number of examples, and the first and the last example, must be equal.
    """
    from jssl import data as sources

    def look() -> tuple[Source, int]:
        source = call_with_section(sources.load, config.data, "data").source
        rows = source.read(np.array([0, len(source) - 1]))
        rows.pop("damaged")
        parts = [np.ascontiguousarray(rows[key]).view(np.uint8).ravel() for key in sorted(rows)]
        return source, int(np.concatenate(parts).astype(np.int64).sum() % 2**31)

    source, digest = agreement.run_on_all_processes(look)
    for what, value in (("examples", len(source)), ("first and last example", digest)):
        seen = set(everywhere(value).tolist())
        if len(seen) > 1:
            raise RuntimeError(f"{source.name}: processes see different {what}: {sorted(seen)}")
    return {"name": source.name, "examples": len(source), "host": os.uname().nodename}


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Checks this machine, and --workdir and --config if they are given."""
    return doctor(load(args["config"], overrides) if args["config"] else None, args["workdir"])
