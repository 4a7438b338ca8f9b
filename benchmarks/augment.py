"""Time of exact against fused augmentation, as JSON: the SimCLR recipe on random images.

    python benchmarks/augment.py --batch=256 --image=256 --size=224 --views=2 --dtype=bfloat16

Prints one line of JSON, also to --out: per mode milliseconds per call (median and 99th percentile
over `repeat` calls), views per second, seconds to compile and bytes of temporary memory; with the
device, the versions and the commit, so that a figure can be read years later.
"""

import argparse
import json
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np

from jssl.transforms import augment

# SimCLR, Chen et al. 2020, appendix A, jitter strength 1; ImageNet mean and std.
SIMCLR = {
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "flip_prob": 0.5,
    "jitter_prob": 0.8,
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "gray_prob": 0.2,
    "blur_prob": 0.5,
    "blur_sigma": (0.1, 2.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--image", type=int, default=256, help="side of the uint8 images")
    parser.add_argument("--size", type=int, default=224, help="side of a view")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--solarize", type=float, default=0.0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--out", type=pathlib.Path, help="file for the JSON")
    return parser.parse_args()


def measure(mode, args):
    """One mode: compile, warm up, and time each call to the end of its work on the device."""
    kind = {"size": args.size, "solarize_prob": args.solarize, "dtype": args.dtype}
    view = augment.view(mode=mode, **kind, **SIMCLR)
    shape = (args.batch, args.image, args.image, 3)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    valid = jnp.full((args.batch, 2), args.image, jnp.int32)
    keys = jax.random.split(jax.random.key(0), args.repeat + 3)

    start = time.perf_counter()

    def views(rng, *batch):
        return view(rng, *(jnp.repeat(x, args.views, axis=0) for x in batch))

    step = jax.jit(views).lower(keys[0], image, valid).compile()
    compile_s = time.perf_counter() - start
    seconds = []
    for key in keys:
        start = time.perf_counter()
        jax.block_until_ready(step(key, image, valid))
        seconds.append(time.perf_counter() - start)
    seconds = np.array(seconds[3:])  # the first ones warm up
    return {
        "ms": round(1e3 * float(np.median(seconds)), 3),
        "ms_p99": round(1e3 * float(np.quantile(seconds, 0.99)), 3),
        "views_per_s": round(args.batch * args.views / float(np.median(seconds))),
        "compile_s": round(compile_s, 2),
        "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
    }


def commit():
    """The commit of this file's repository, or "unknown" outside of one."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main():
    args = arguments()
    device = jax.devices()[0]
    result = {
        "benchmark": "augment",
        "device": f"{device.platform}: {device.device_kind}",
        "jax": jax.__version__,
        "commit": commit(),
        **{name: value for name, value in vars(args).items() if name != "out"},
        **{mode: measure(mode, args) for mode in ("exact", "fused")},
    }
    text = json.dumps(result)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
