"""The error of bfloat16 networks against float32, by the dtype of their residual stream.

    python benchmarks/residual.py --out=benchmarks/results

Relative errors (norm of the difference over norm) of all output tokens, and of the gradient of a
random linear function of them, at initialization.
"""

import argparse
import datetime
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jssl import nn
from jssl.nn.apply import apply, init
from jssl.workdir import run_folder

HOW = dict(
    remat="none",
    scan=True,
    attention="xla",
    dtype="float32",
    residual_dtype="float32",
)
VIT = HOW | dict(
    name="vit_s",
    patch=16,
    image_size=96,
    class_token=True,
    pool="cls",
    positions="sincos",
    drop_path=0.0,
    init="xavier",
)
TEXT = HOW | dict(name="gpt_small", length=64, positions="learned", pool="mean", dropout=0.0)
VOCAB = 500


def networks() -> dict:
    """{name: (network in float32, its input)}."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 96, 96, 3)).astype(np.float32)
    tokens = rng.integers(0, VOCAB, (4, 64)).astype(np.int32)
    found = {f"ViT-S/16, {n} blocks": (nn.encoder(VIT).clone(depth=n), images) for n in (6, 12, 24)}
    gpt = nn.encoder(TEXT | {"init": "gpt"}, vocab=VOCAB)
    bert = nn.encoder(TEXT | {"name": "bert_small", "init": "bert"}, vocab=VOCAB)
    found["GPT, 12 blocks, 384 wide"] = (gpt.clone(depth=12), tokens)
    found["BERT, 12 blocks, 384 wide"] = (bert.clone(depth=12, dim=384, heads=6), tokens)
    return found


def outputs(net, params, x, dtype: str, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, gradient) as flat float32 arrays."""
    net = net.clone(dtype=jnp.dtype(dtype), residual_dtype=jnp.dtype(stream))

    def forward(params):
        return apply(net, params, {}, x, train=False)[0].astype(jnp.float32)

    shape = jax.eval_shape(forward, params).shape
    weight = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    tokens = jax.jit(forward)(params)
    gradient = jax.jit(jax.grad(lambda params: (forward(params) * weight).mean()))(params)
    flat = [np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(gradient)]
    return np.asarray(tokens).ravel(), np.concatenate(flat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks/results", help="a folder, for the JSON")
    args = parser.parse_args()
    rows = []
    for name, (net, x) in networks().items():
        params, _ = init(net, jax.random.key(0), x)
        exact = outputs(net, params, x, "float32", "float32")
        row = {"network": name}
        for stream in ("float32", "bfloat16"):
            got = outputs(net, params, x, "bfloat16", stream)
            errors = [
                float(np.linalg.norm(a - b) / np.linalg.norm(b))
                for a, b in zip(got, exact, strict=True)
            ]
            row[stream] = dict(zip(("tokens", "gradient"), errors, strict=True))
        rows.append(row)
        print(json.dumps(row), flush=True)
    found = {"residual": rows, "command": "python benchmarks/residual.py"}
    found |= {"date": str(datetime.date.today()), **run_folder.versions()}
    path = pathlib.Path(args.out) / f"residual-{found['device'].lower().replace(' ', '_')}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
