"""`jssl plan`: what a training step needs and takes on hardware that is not present.

XLA's compiler for TPUs comes with libtpu (the extra `plan`) and needs no TPU. It compiles the real
step and reports the memory of a device. The time of a step is a roofline
(`jssl.perf.roofline`). The memory traffic is an estimate: the sum over all operations of a program
that a longer search would improve. GPUs have no such compiler: theirs is a roofline from the data
sheet (`jssl.perf.datasheet`).
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
from jax.sharding import AbstractMesh, Mesh

from jssl import errors
from jssl.commands.arguments import count, require
from jssl.commands.bench import EXAMPLES, made_up
from jssl.commands.table import Args, Overrides
from jssl.config import Config, ConfigError, UserError, call_with_section, durations, load, suggest
from jssl.data.source import dataset_info
from jssl.parallel import mesh
from jssl.perf import accelerators, datasheet, hlo, sharding_report
from jssl.perf.roofline import rings, roofline, summarize, traffic_of
from jssl.training.setup import Run, check_batch, compile_step, model_flops, setup_run

log = logging.getLogger("jssl")
TOPOLOGIES = ("v5e:16x16", "v5p:4x4x8", "v6e:16x16", "v4:4x4x4", "v5e:2x4")  # examples
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
      topology: as in "v5e:16x16" or "h100:16"; "": local devices.
      devices: the number of local devices.
      num_examples: the size of the data set, for methods with a bank of its examples.
      vocab_size: the number of token ids, for text; 0: that of bytes.

    Returns:
      A dict of JSON values: FLOPs, bytes per device, collectives, times and sharding.

    Raises:
      UserError: an unknown topology, missing devices, or a config that does not fit them.
    """
    config = Config(durations.resolved(tree, num_examples))
    gpus = datasheet.parse(topology)
    if gpus:
        return from_datasheet(config, topology, *gpus, num_examples, vocab_size)
    device_mesh = call_with_section(
        mesh.make_mesh, config.mesh, "mesh", devices=devices_for(topology, devices)
    )
    chip = accelerators.CHIPS.get(device_mesh.devices.flat[0].device_kind)
    run = planned(config, device_mesh, num_examples, vocab_size)
    compiled = compiled_for(run)
    places = sharding_report.rows(run.shapes)
    result = described(run, num_examples) | {
        "topology": topology or f"{devices} x local",
        "device": device_mesh.devices.flat[0].device_kind,
        "devices": device_mesh.size,
        "mesh": dict(device_mesh.shape),
        **compiled,
    }
    if chip:
        refused = compiled["traffic"] is None  # the system keeps some of a chip's memory for itself
        fits = not refused and compiled["bytes_per_device"] <= chip.memory
        state_bytes = sum(row["bytes_per_device"] for row in places)
        result |= {"memory": chip.memory, "fits": fits}
        result |= {"largest_batch": largest(run, chip, state_bytes, compiled["bytes_per_device"])}
        result |= roofline(compiled, chip, device_mesh.size, rings(topology))
        result |= whole_run(config.steps, result["step_seconds"], device_mesh.size)
    sharding_report.show(result, places)
    return result | {"placement": places}


def described(run: Run, num_examples: int) -> dict[str, Any]:
    """What a plan says of its config."""
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.shapes.params))
    return {
        "config": run.config.method,
        "batch_size": run.config.batch_size,
        "examples": num_examples,
        "vocab": run.data_info.vocab_size,
        "parameters": weights,
    }


def whole_run(steps: int, step_seconds: float, devices: int) -> dict[str, Any]:
    """The hours of all steps of a run, at the time of the roofline."""
    hours = steps * step_seconds / 3600
    return {"steps": steps, "hours": hours, "chip_hours": hours * devices}


def from_datasheet(
    config: Config,
    topology: str,
    host: datasheet.Host,
    count: int,
    num_examples: int,
    vocab_size: int,
) -> dict[str, Any]:
    """Plans for GPUs that are not here; see `jssl.perf.datasheet`."""
    sizes = dict(config.mesh)
    axes = call_with_section(mesh.axis_sizes, sizes, "mesh", count=count, platform="gpu")
    here = mesh.make_mesh(data=-1, fsdp=1, devices=jax.devices()[:1])
    run = planned(config, here, num_examples, vocab_size)
    parts = axes["data"] * axes["fsdp"] * config.accumulate * run.method.turns
    mesh.check_batch("config.batch_size", config.batch_size, parts, "devices")
    flops = model_flops(run)
    there = AbstractMesh(tuple(axes.values()), mesh.AXES)
    places = sharding_report.rows(mesh.placed(run.shapes, there))
    state_bytes = sum(row["bytes_per_device"] for row in places)
    width = jax.numpy.dtype(config.model.dtype).itemsize
    result = described(run, num_examples) | {
        "topology": topology,
        "device": host.kind,
        "devices": count,
        "mesh": axes,
        "basis": "data sheet: no compiler, and no activations in memory and its traffic",
        "flops_per_step": flops,
        "flops_per_device": flops // count,
        "bytes_per_device": state_bytes,
        "collectives": [],
    }
    result |= datasheet.roofline(
        host, axes, flops // count, state_bytes, width * result["parameters"]
    )
    result |= {"fits": None if state_bytes <= result["memory"] else False}
    result |= whole_run(config.steps, result["step_seconds"], count)
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
        reason = str(error).splitlines()[0][:100]
        known = (*TOPOLOGIES, *(f"{name}:8" for name in datasheet.HOSTS))
        cure = suggest(topology, known)
        raise ConfigError("topology", topology, reason, cure) from None


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
    result = {"flops_per_step": model_flops(run)}
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
        nothing = {"collectives": [], "traffic": None, "moved": None}
        return result | {"bytes_per_device": needed + queued, **nothing}
    memory = compiled.memory_analysis()
    state_bytes = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )
    state_bytes += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    program = hlo.Program(compiled.as_text())
    return result | {
        "bytes_per_device": state_bytes + queued,
        "traffic": program.traffic(),
        "moved": traffic_of(program),
        "collectives": summarize(program.collectives(device_mesh.size)),
    }


def largest(
    run: Run, chip: accelerators.Chip, state_bytes: int, bytes_per_device: int
) -> int | None:
    """Estimates the largest batch that fits: what is not the state grows with the batch.

    Args:
      run: of the plan.
      chip: its devices.
      state_bytes: of the state on one device.
      bytes_per_device: that the program needs.
    """
    config = run.config
    each = (bytes_per_device - state_bytes) / config.batch_size
    parts = mesh.batch_parts(run.mesh) * config.accumulate * run.method.turns
    if each <= 0:
        return None
    return max(int((chip.memory - state_bytes) / each // parts * parts), 0)


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Plans the recipe --config."""
    config = load(require(args, "config", "plan"), overrides)
    sizes = {"num_examples": "examples", "vocab_size": "vocab"}
    more = {name: count(args, flag) for name, flag in sizes.items() if args[flag]}
    return plan(config, args["topology"], count(args, "devices"), **more)
