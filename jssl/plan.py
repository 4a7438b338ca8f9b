"""`jssl plan`: the true training step, compiled for hardware that is not here.

XLA's compiler for TPUs comes with libtpu and needs no TPU (the extra `plan`). It says how
much memory a device needs; what a step takes is a roofline: the largest of what computing and
memory take at the chip's peak rates, plus what its collectives take. Memory's part is the sum over
all operations of the program, which a longer search makes less: an estimate.
"""

import logging
import math
import os
import re
import warnings
from types import SimpleNamespace

import jax
import numpy as np

from jssl import chips, extras, hlo, mesh, placement
from jssl.bench import EXAMPLES, made_up
from jssl.config import Config, UserError, bind, near
from jssl.run import check_batch, compile_step, model_flops, prepare

log = logging.getLogger("jssl")
SCALES = (8, 32, 128, 256)
# The program that trains, but the compiler searches less for its best form. For MAE ViT-B and
# SimCLR on v5e:16x16 that takes a fourth of the time, moves temporary memory by less than 1 %, and
# leaves the collectives as they are.
EFFORT = {"exec_time_optimization_effort": -1.0}
NOWHERE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip


def plan(tree, topology: str, devices: int) -> dict:
    """The JSON result for a config on `topology` ("v5e:16x16"), or on so many local devices."""
    config = Config(tree)
    there = bind(mesh.make, config.mesh, "mesh", devices=find(topology, devices))
    chip = chips.CHIPS.get(there.devices.flat[0].device_kind)
    run = planned(config, there)
    found = compiled_for(run)
    half = None
    if config.batch_size % (2 * mesh.batch_parts(there) * config.accumulate) == 0:
        log.info("once more with half of the batch, to see what an example takes")
        half = Config(tree).changed({"batch_size": config.batch_size // 2})
        half = compiled_for(planned(half, there))
    result = {
        "config": config.method, "topology": topology or f"{devices} x local",
        "device": there.devices.flat[0].device_kind, "devices": there.size,
        "mesh": dict(there.shape), "batch_size": config.batch_size,
        "examples": run.config.examples, "vocab": run.config.vocab.size, **found,
        "largest_batch": largest(config, there, chip, found, half),
    }  # fmt: skip
    if chip:
        refused = found["traffic"] is None  # the system keeps some of a chip's memory for itself
        fits = not refused and found["bytes_per_device"] <= chip.memory
        result |= {"memory": chip.memory, "fits": fits}
        result |= roofline(found, chip, there.size)
    places = placement.rows(run.shapes)
    placement.show(result, places)
    return result | {"placement": places}


def find(topology: str, devices: int) -> list:
    """The devices, abstract ones for a topology."""
    if not topology:
        if not 0 < devices <= jax.device_count():
            raise UserError(
                f"--devices={devices}, but {jax.device_count()} are here; on a CPU "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes as many"
            )
        return jax.devices()[:devices]
    if jax.default_backend() != "tpu":  # libtpu looks for its machine, and complains
        for key, value in NOWHERE.items():
            os.environ.setdefault(key, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # noqa: BLE001 - jaxlib's own type for names it does not know
        if "not installed" in str(error):
            raise UserError(
                f"jssl plan --topology needs libtpu; install it with: {extras.install('plan')}"
            ) from None
        kinds = ("v5e:16x16", "v5p:4x4x8", "v6e:16x16", "v4:4x4x4", "v5e:2x4")
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"--topology={topology}: {reason}; {near(topology, kinds)}") from None


def planned(config, there):
    """The run, on made-up data: of as many examples as ImageNet has, unless the config says."""
    config = config.changed({"examples": config.examples or EXAMPLES})
    run = prepare(config, devices=there, source=made_up(config), training=False)
    check_batch(run)
    return run


def compiled_for(run) -> dict:
    """Bytes, FLOPs and collectives of the compiled step."""
    config, there = run.config, run.mesh
    split = mesh.batch_sharding(there)
    grow = lambda x: jax.ShapeDtypeStruct(
        (config.batch_size, *x.shape[1:]), x.dtype, sharding=split
    )
    batch = jax.tree.map(grow, {key: np.asarray(value) for key, value in run.example.items()})
    step = compile_step(run, SimpleNamespace(batch=lambda held, fed: fed))
    log.info("compiling for %d x %s", there.size, there.devices.flat[0].device_kind)
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.shapes.params))
    found = {"parameters": weights, "flops_per_step": model_flops(run)}
    found["flops_per_device"] = found["flops_per_step"] // there.size
    queued = 2 * sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) // there.size
    try:
        with warnings.catch_warnings():  # a program for other hardware cannot be read back
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            least = EFFORT if there.devices.flat[0].platform == "tpu" else None
            compiled = step.lower(run.shapes, {}, batch).compile(compiler_options=least)
    except jax.errors.JaxRuntimeError as error:  # the compiler says so where memory is short
        used = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])", str(error))
        if not used:
            raise
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}[used[2]]
        needed = int(float(used[1]) * scale)
        return found | {"bytes_per_device": needed + queued, "collectives": [], "traffic": None}
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    held += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    program = hlo.Program(compiled.as_text())
    return found | {
        "bytes_per_device": held + queued,
        "traffic": program.traffic(),
        "collectives": tally(program.collectives(there.size)),
    }


def tally(moved: list[hlo.Collective]) -> list[dict]:
    """The collectives of each kind and size of group: how many, and bytes of all together."""
    return [
        {
            "kind": kind,
            "group": group,
            "times": sum(one.times for one in moved if (one.kind, one.group) == (kind, group)),
            "bytes": sum(
                one.times * one.bytes for one in moved if (one.kind, one.group) == (kind, group)
            ),
        }
        for kind, group in sorted({(one.kind, one.group) for one in moved})
    ]


def largest(config, there, chip, found, half) -> int | None:
    """The largest batch that fits, if memory grows evenly with it: a line through two batches."""
    if not (chip and half):
        return None
    each = (found["bytes_per_device"] - half["bytes_per_device"]) / (config.batch_size / 2)
    parts = mesh.batch_parts(there) * config.accumulate
    if each <= 0:
        return None
    rest = chip.memory - found["bytes_per_device"]
    return max(int((config.batch_size + rest / each) // parts * parts), 0)


def roofline(found: dict, chip, devices: int) -> dict:
    """Seconds of a step at peak rates, and what share is left at other numbers of chips."""
    compute = found["flops_per_device"] / chip.flops
    traffic = (found["traffic"] or 0.0) / chip.bandwidth
    work = max(compute, traffic)
    link = lambda n: sum(wire(one, n, devices) for one in found["collectives"]) / chip.link
    return {
        "seconds": {"compute": compute, "memory": traffic, "interconnect": link(devices)},
        "step_seconds": work + link(devices),
        "efficiency": {str(n): work / (work + link(n)) for n in SCALES if work},
    }


def wire(one: dict, n: int, devices: int) -> float:
    """Bytes that a device sends on rings of n chips, with the batch of a chip as it is: a group of
    all devices becomes one of n, and what is gathered from all grows with n."""
    kind, size, whole = one["kind"], one["bytes"], one["group"] == devices
    group = n if whole else min(one["group"], n)
    size *= n / devices if whole and kind == "all-gather" else 1
    return (
        size * {"all-reduce": 2, "collective-permute": 1}.get(kind, 1) * (group - 1) / max(group, 1)
    )
