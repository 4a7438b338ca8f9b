"""What this device does at best: a matrix product in bfloat16 and a pass over memory, as JSON.

    python benchmarks/ceilings.py

Neither figure is a data sheet's; a training step cannot be faster than they allow.
"""

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


def seconds(function: Callable[[jax.Array], jax.Array], x: jax.Array, calls: int) -> float:
    """Times one call: the median of three blocks of calls that run one after another."""
    for _ in range(3):
        y = function(x)
    y.block_until_ready()
    blocks = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            y = function(x)
        y.block_until_ready()
        blocks.append((time.perf_counter() - began) / calls)
    return sorted(blocks)[1]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small arrays, for a CPU")
    tiny = parser.parse_args().tiny
    side = 512 if tiny else 8192
    count = 2**24 if tiny else 2**30
    device = jax.devices()[0]
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = seconds(jax.jit(lambda a: a @ a), a, 30)
    # An addition reads and writes every element once; a plain copy may be left out by the compiler.
    copy = seconds(jax.jit(lambda x: x + 1), jnp.zeros(count, jnp.float32), 10)
    found = {
        "tflops_bf16": round(2 * side**3 / product / 1e12, 2),
        "copy_gb_s": round(8 * count / copy / 1e9, 1),
        "device": device.device_kind,
        "platform": device.platform,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
