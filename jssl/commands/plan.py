"""`jssl plan`: compiles the real training step for hardware that is not present.

XLA's compiler for TPUs comes with libtpu (the extra `plan`) and needs no TPU. It reports the memory
of a device. The time of a step is a roofline: the larger of the times for computing and for memory
traffic at the chip's peak rates, plus the time of the collectives. The memory traffic is an
estimate: the sum over all operations of a program that a longer search would improve.
"""

import logging
import math
import os
import re
import warnings
from types import SimpleNamespace
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jssl import errors
from jssl.commands.arguments import Args, Overrides, count, require
from jssl.commands.bench import EXAMPLES, made_up
from jssl.config import Config, ConfigError, UserError, call_with_section, load, suggest
from jssl.data.source import dataset_info
from jssl.parallel import mesh
from jssl.perf import accelerators, hlo, sharding_report
from jssl.training.setup import Run, check_batch, compile_step, model_flops, setup_run

log = logging.getLogger("jssl")
SCALES = (8, 32, 128, 256)  # numbers of chips
# The same program as in training, but the compiler searches less for its best form. For MAE ViT-B
# and SimCLR on v5e:16x16 this takes a fourth of the time, changes temporary memory by less than
# 1 %, and does not change the collectives.
EFFORT = {"exec_time_optimization_effort": -1.0}
OFFLINE_TPU_ENV = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def plan(
    tree: ml_collections.ConfigDict,
    topology: str,
    devices: int,
    num_examples: int = EXAMPLES,
    vocab_size: int = 0,
) -> dict[str, Any]:
    """Plans the training step of a config.

    Args:
      tree: a whole config.
      topology: as in "v5e:16x16"; "": local devices.
      devices: the number of local devices.
      num_examples: the size of the data set, for methods with a bank of its examples.
      vocab_size: the number of token ids, for text; 0: that of bytes.

    Returns:
      A dict of JSON values: FLOPs, bytes per device, collectives, times and sharding.

    Raises:
      UserError: an unknown topology, missing devices, or a config that does not fit them.
    """
    config = Config(tree)
    device_mesh = call_with_section(
        mesh.make_mesh, config.mesh, "mesh", devices=devices_for(topology, devices)
    )
    chip = accelerators.CHIPS.get(device_mesh.devices.flat[0].device_kind)
    size = (num_examples, vocab_size)
    run = planned(config, device_mesh, *size)
    compiled = compiled_for(run)
    half = None
    if config.batch_size % (2 * mesh.batch_parts(device_mesh) * config.accumulate) == 0:
        log.info("once more with half of the batch, to see what an example takes")
        halved = Config(tree).changed({"batch_size": config.batch_size // 2})
        half = compiled_for(planned(halved, device_mesh, *size))
    result: dict[str, Any] = {
        "config": config.method,
        "topology": topology or f"{devices} x local",
        "device": device_mesh.devices.flat[0].device_kind,
        "devices": device_mesh.size,
        "mesh": dict(device_mesh.shape),
        "batch_size": config.batch_size,
        "examples": num_examples,
        "vocab": run.data_info.vocab_size,
        **compiled,
        "largest_batch": largest(config, device_mesh, chip, compiled, half),
    }
    if chip:
        refused = compiled["traffic"] is None  # the system keeps some of a chip's memory for itself
        fits = not refused and compiled["bytes_per_device"] <= chip.memory
        result |= {"memory": chip.memory, "fits": fits}
        result |= roofline(compiled, chip, device_mesh.size)
    places = sharding_report.rows(run.shapes)
    sharding_report.show(result, places)
    return result | {"placement": places}


def devices_for(topology: str, devices: int) -> list[Any]:
    """Returns local devices, or abstract ones for a topology."""
    if not topology:
        if not 0 < devices <= jax.device_count():
            raise ConfigError(
                "devices",
                devices,
                f"only {jax.device_count()} are here",
                f"on a CPU XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes as "
                "many",
            )
        return jax.devices()[:devices]
    if jax.default_backend() != "tpu":  # else libtpu searches for its machine, and fails
        for key, value in OFFLINE_TPU_ENV.items():
            os.environ.setdefault(key, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # noqa: BLE001 - jaxlib has its own type for unknown names
        if "not installed" in str(error):
            raise UserError(
                f"jssl plan --topology needs libtpu; install it with: {errors.install('plan')}"
            ) from None
        kinds = ("v5e:16x16", "v5p:4x4x8", "v6e:16x16", "v4:4x4x4", "v5e:2x4")
        reason = str(error).splitlines()[0][:100]
        raise ConfigError("topology", topology, reason, suggest(topology, kinds)) from None


def planned(config: Config, there: Mesh, num_examples: int, vocab_size: int) -> Run:
    """Sets up the run, with random data."""
    source = made_up(config, vocab_size)
    info = dataset_info(source.source)._replace(num_examples=num_examples)
    run = setup_run(config, devices=there, source=source, data_info=info, training=False)
    check_batch(run)
    return run


def compiled_for(run: Run) -> dict[str, Any]:
    """Compiles the step of a run; returns its bytes, FLOPs and collectives."""
    config = run.config
    device_mesh = run.mesh
    split = mesh.batch_sharding(device_mesh)

    def grow(x: np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype, sharding=split)

    batch = jax.tree.map(grow, {key: np.asarray(value) for key, value in run.example.items()})
    feed: Any = SimpleNamespace(batch=lambda held, fed: fed)
    step = compile_step(run, feed)
    log.info("compiling for %d x %s", device_mesh.size, device_mesh.devices.flat[0].device_kind)
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.shapes.params))
    result = {"parameters": weights, "flops_per_step": model_flops(run)}
    result["flops_per_device"] = result["flops_per_step"] // device_mesh.size
    queued = (
        2 * sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) // device_mesh.size
    )
    try:
        with warnings.catch_warnings():  # a program for other hardware cannot be read back
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            options = EFFORT if device_mesh.devices.flat[0].platform == "tpu" else None
            compiled = step.lower(run.shapes, {}, batch).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:  # the compiler reports a lack of memory
        match = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])", str(error))
        if not match:
            raise
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
        needed = int(float(match[1]) * scale)
        return result | {"bytes_per_device": needed + queued, "collectives": [], "traffic": None}
    memory = compiled.memory_analysis()
    state_bytes = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )
    state_bytes += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    program = hlo.Program(compiled.as_text())
    return result | {
        "bytes_per_device": state_bytes + queued,
        "traffic": program.traffic(),
        "collectives": summarize(program.collectives(device_mesh.size)),
    }


def summarize(moved: list[hlo.Collective]) -> list[dict[str, Any]]:
    """Sums the collectives of each kind and group size: their number and their bytes."""
    return [
        {
            "kind": kind,
            "group": group,
            "times": sum(
                collective.times
                for collective in moved
                if (collective.kind, collective.group) == (kind, group)
            ),
            "bytes": sum(
                collective.times * collective.bytes
                for collective in moved
                if (collective.kind, collective.group) == (kind, group)
            ),
        }
        for kind, group in sorted({(collective.kind, collective.group) for collective in moved})
    ]


def largest(
    config: Config,
    there: Mesh,
    chip: accelerators.Chip | None,
    found: dict[str, Any],
    half: dict[str, Any] | None,
) -> int | None:
    """Estimates the largest batch that fits, from a line through two batch sizes.

    Args:
      config: the config of the run.
      there: its mesh.
      chip: its devices; None if unknown.
      found: `compiled_for` with the whole batch.
      half: `compiled_for` with half of it; None if it was not compiled.
    """
    if not (chip and half):
        return None
    each = (found["bytes_per_device"] - half["bytes_per_device"]) / (config.batch_size / 2)
    parts = mesh.batch_parts(there) * config.accumulate
    if each <= 0:
        return None
    rest = chip.memory - found["bytes_per_device"]
    return max(int((config.batch_size + rest / each) // parts * parts), 0)


def roofline(found: dict[str, Any], chip: accelerators.Chip, devices: int) -> dict[str, Any]:
    """Returns the seconds of a step at peak rates, and the efficiency at other numbers of chips."""
    compute = found["flops_per_device"] / chip.flops
    traffic = (found["traffic"] or 0.0) / chip.bandwidth
    work = max(compute, traffic)

    def link(n: int) -> float:
        return sum(bytes_sent(one, n, devices) for one in found["collectives"]) / chip.link

    return {
        "seconds": {"compute": compute, "memory": traffic, "interconnect": link(devices)},
        "step_seconds": work + link(devices),
        "efficiency": {str(n): work / (work + link(n)) for n in SCALES if work},
    }


def bytes_sent(one: dict[str, Any], n: int, devices: int) -> float:
    """Counts the bytes that a device sends for a collective on rings of n chips.

    The batch of a chip stays the same: a group of all devices becomes one of n, and an all-gather
    from all devices grows with n.
    """
    kind = one["kind"]
    size = one["bytes"]
    whole = one["group"] == devices
    group = n if whole else min(one["group"], n)
    size *= n / devices if whole and kind == "all-gather" else 1
    return (
        size * {"all-reduce": 2, "collective-permute": 1}.get(kind, 1) * (group - 1) / max(group, 1)
    )


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Plans the recipe --config."""
    config = load(require(args, "config", "plan"), overrides)
    sizes = {"num_examples": "examples", "vocab_size": "vocab"}
    more = {name: count(args, flag) for name, flag in sizes.items() if args[flag]}
    return plan(config, args["topology"], count(args, "devices"), **more)
