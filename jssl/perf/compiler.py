"""Compiler options of the large programs, by kind of device."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

# By default XLA gives products, sums and convolutions on a CPU to YNNPACK. Sums gain by it.
# Convolutions take up to five times as long as with XLA's own code, and products compile for longer
# and run no faster (benchmarks/NOTES.md).
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
# A program that draws initial weights is as large as a step and runs once: LLVM takes three
# quarters of its time to make it faster. The weights have the same bits.
CPU_ONCE = {"xla_backend_optimization_level": "1"}
OPTIONS: Mapping[str, Mapping[str, str]] = {"cpu": CPU, "cpu, once": CPU_ONCE}


def jit(
    function: Callable[..., Any], mesh: Mesh, *, runs_once: bool = False, **arguments: Any
) -> Any:
    """As `jax.jit`, with the compiler options of the devices of a mesh.

    Args:
      function: the function.
      mesh: the device mesh; all its devices are of one kind.
      runs_once: whether to compile fast rather than to run fast.
      **arguments: of `jax.jit`.
    """
    platform = mesh.devices.flat[0].platform + ", once" * runs_once
    return jax.jit(function, compiler_options=options(platform) or None, **arguments)


@functools.cache
def options(platform: str) -> dict[str, str]:
    """Returns the options of a platform, such as "cpu"; "cpu, once": of programs that run once.

    Left out are options that this version of jaxlib does not know, and those that the user has set
    in XLA_FLAGS.
    """
    known = {}
    for name, value in OPTIONS.get(platform, {}).items():
        if name in os.environ.get("XLA_FLAGS", ""):
            continue
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:  # INVALID_ARGUMENT: no such option, or no such value
            continue
        known[name] = value
    return known
