"""`jssl doctor`: what should be right before a long run is started, in every process of it.

Start it like the run itself (the same srun, the same pod). Each check is a line in the log; `ok` is
whether none has failed.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import time
import uuid

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.config import Config, UserError, call_with_section, durations
from jssl.data import host_batches
from jssl.data.files import Damaged
from jssl.parallel import agreement, mesh
from jssl.workdir import checksums, identity, run_folder
from jssl.workdir.retention import Retention

log = logging.getLogger("jssl")
SKEW = 5.0  # seconds between two clocks above which logs and time limits confuse
SHM = "/dev/shm"
WAITING = 3  # batches of one worker that wait there
ROOM = 10e9  # bytes free in a workdir below which checkpoints may not fit


def doctor(tree, folder: str) -> dict:
    """{"ok", name of a check: what it found, or {"failed": why}}; `tree` is a config or None,
    `folder` a workdir or ""."""
    checks = {"versions": run_folder.versions, "devices": devices, "collectives": collectives}
    checks["clocks"] = clocks
    if folder:
        checks["workdir"] = lambda: writable(folder)
        checks["disk"] = lambda: disk(folder)
        checks["run"] = lambda: held(folder, tree)
    if tree is not None:
        checks["shared memory"] = lambda: shared_memory(Config(tree))
        checks["data"] = lambda: data(Config(tree))
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except (UserError, Damaged, OSError, RuntimeError, ValueError) as error:
            found[name] = {"failed": " ".join(str(error).split())[:300]}
        bad = "failed" in found[name]
        (log.error if bad else log.info)("%-12s %s", name, found[name].get("failed", found[name]))
    agreed = everywhere(not any("failed" in one for one in found.values()))
    return {"ok": bool(agreed.all()), "processes": jax.process_count(), **found}


def everywhere(value) -> np.ndarray:
    """The value that each process gives, in their order."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(value))).reshape(-1)


def devices() -> dict:
    """Of all processes; a product of matrices runs on each of ours."""
    kinds = sorted({device.device_kind for device in jax.devices()})

    def multiply():
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


def collectives(size: int = 2**22, times: int = 5) -> dict:
    """An all-reduce of float32 [size] over all devices: right, and how fast, in bytes/s of a device
    by the ring's 2 (n - 1) / n."""
    there = call_with_section(
        mesh.make_mesh, {"data": -1, "fsdp": 1, "tensor": 1}, "mesh", devices=None
    )
    n = there.size
    split = NamedSharding(there, P(mesh.AXES))
    rows = jax.make_array_from_callback(
        (n, size), split, lambda at: np.full((1, size), at[0].start or 0, np.float32)
    )
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(there, P()))
    total = add(rows).block_until_ready()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        add(rows).block_until_ready()
        seconds.append(time.perf_counter() - began)
    if float(total.addressable_shards[0].data[0]) != n * (n - 1) / 2:
        raise RuntimeError("a sum over all devices is wrong")
    best = sorted(seconds)[times // 2]
    return {"devices": n, "bytes_per_s": round(2 * (n - 1) / n * 4 * size / best), "ms": best * 1e3}


def clocks() -> dict:
    """How far apart the processes' clocks are, asked for right after they have met."""
    multihost_utils.sync_global_devices("clocks")
    times = everywhere(np.float32(time.time() % 1e5))  # a day and more, to a hundredth
    skew = float(times.max() - times.min())
    if skew > SKEW:
        raise RuntimeError(f"clocks are {skew:.1f} s apart; set them by NTP")
    return {"skew_s": skew}


def writable(folder: str) -> dict:
    """Every process writes into the workdir, and every other one sees it there."""
    path = run_folder.resolve(folder)
    name = everywhere(uuid.uuid4().int % 2**31)[0]
    mine = path / f".doctor-{name}-{jax.process_index()}"

    def write():
        path.mkdir(parents=True, exist_ok=True)
        mine.write_text("x")

    try:
        agreement.run_on_all_processes(write)
        seen = agreement.run_on_all_processes(lambda: len(list(path.glob(f".doctor-{name}-*"))))
    finally:
        with contextlib.suppress(OSError):  # it may be what could not be written
            mine.unlink()
    if seen != jax.process_count():
        raise RuntimeError(
            f"--workdir={folder}: {seen} of {jax.process_count()} processes' files are seen here; "
            "it must be one folder for all (NFS, Lustre, a bucket)"
        )
    return {"path": str(path), "processes": seen}


def disk(folder: str) -> dict:
    free = shutil.disk_usage(run_folder.resolve(folder)).free
    if free < ROOM:
        raise RuntimeError(f"--workdir={folder} has {free / 1e9:.1f} GB free; free some space")
    return {"free_bytes": free}


def held(folder: str, tree) -> dict:
    """What run the workdir holds: its parts belong together, its newest checkpoint is what was
    written, and the config of that run is `tree`, if one is given."""

    def look():
        path = run_folder.resolve(folder)
        run_folder.check_parts(path)
        if not run_folder.claimed(path):
            return None, []
        if tree is not None:
            count = run_folder.recorded_info(path).num_examples
            run_folder.check_same(path, run_folder.recorded(path), durations.resolved(tree, count))
        mark = run_folder.mark(path)
        steps = Retention(path / "checkpoints", 1, 0).listed()
        run_folder.result(path)
        for step in steps:
            identity.check_note(path / "checkpoints" / str(step), step, mark)
        if steps:
            checksums.check(path / "checkpoints" / str(steps[-1]))
        return identity.short(mark.run), steps

    run, steps = agreement.run_on_all_processes(look)
    return {"run": run, "checkpoints": steps}


def shared_memory(config) -> dict:
    """Room in /dev/shm, through which data workers hand over their batches."""
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


def data(config) -> dict:
    """The data set opens in every process, with as many examples, and the same first and last."""
    from jssl import data as sources

    def look():
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
