"""Memory that the compiler reserves, as JSON: no step is run, so any machine can say it.

    python benchmarks/memory.py --out=benchmarks/results

nt_xent: value and gradient at 65,536 views of 128 features, in chunks and with the whole matrix.
grad_cache: a SimCLR step at batch 1,024 whole, and in 4 and 16 micro-batches of GradCache, with the
recipe's sizes; the gradient is that of the whole batch (tests/training/test_accumulate.py). The
figures are XLA's `temp_size_in_bytes` for the platform that is named.
"""

import argparse
import datetime
import json
import pathlib

import jax
import jax.numpy as jnp
from step import commit

from jssl import losses
from jssl.config import Config, load
from jssl.core import DatasetInfo
from jssl.data.source import image_fields
from jssl.training.setup import build_method


def temporary(function, *args) -> int:
    """Bytes beside arguments and results, with the arguments' memory reused where it can be."""
    compiled = jax.jit(function, donate_argnums=0).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def nt_xent(views: int, width: int) -> dict:
    z = jax.ShapeDtypeStruct((views // 2, width), jnp.float32)
    train = jax.value_and_grad(lambda a, b: losses.nt_xent(a, b, 0.1)[0], (0, 1))
    found, limit = {"matrix_bytes": 4 * views**2}, losses.contrastive.MAX_DENSE_ELEMENTS
    for name, whole in (("chunked", limit), ("whole", views**2)):
        losses.contrastive.MAX_DENSE_ELEMENTS = whole
        found[name] = temporary(lambda a, b: train(a, b), z, z)
    losses.contrastive.MAX_DENSE_ELEMENTS = limit
    return {"work": f"NT-Xent, {views:,} views x {width}, value and gradient", **found}


def grad_cache(recipe: str, batch_size: int, parts: tuple[int, ...]) -> dict:
    found = {}
    for n in parts:
        words = {"batch_size": str(batch_size), "accumulate": str(n)}
        config = Config(load(recipe, words | {"grad_cache": str(n > 1)}))
        key = jax.random.key(0)
        fields = image_fields((32, 32, 3), "uint8", labeled=False)
        method = build_method(config, DatasetInfo(batch_size, "image", fields))

        def shape(*s, dtype=jnp.int32):
            return jax.ShapeDtypeStruct((batch_size, *s), dtype)

        batch = {"image": shape(32, 32, 3, dtype=jnp.uint8), "size": shape(2), "index": shape()}
        few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), batch)
        state = jax.eval_shape(method.init, key, few)
        found[str(n)] = temporary(method.train_step, state, batch, key)
    return {"work": f"SimCLR step, {recipe}, batch {batch_size:,}", "micro_batches": found}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", default="", help="folder for memory-<device>-<date>.json")
    given = parser.parse_args()
    device = jax.devices()[0].device_kind
    found = {
        "benchmark": "memory",
        "command": "python benchmarks/memory.py",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "device": device,
        "jax": jax.__version__,
        "memory": [
            nt_xent(65_536, 128),
            grad_cache("configs/simclr_cifar10.py", 1024, (1, 4, 16)),
        ],
    }
    print(json.dumps(found, indent=1))
    if given.out:
        name = f"memory-{device.replace(' ', '_')}-{found['date']}.json"
        pathlib.Path(given.out, name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
