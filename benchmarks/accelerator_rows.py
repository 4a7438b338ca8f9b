"""The rows of `accelerator.py`: which processes measure what, in order of worth."""

import argparse
import json
import os
import subprocess
import sys
from typing import NamedTuple

from step import ROOT, ROWS, commit, words_of

GROUPS = ("steps", "peers", "cifar", "variants", "flags")  # in order of worth
SEEDS = (0, 1, 2)
STEPS = {"simclr_cifar10": 200}  # of 30 so short steps the energy counter sees too little

RESNET = "SimCLR ResNet-50, 224 px, 256 images"
VIT = "MAE ViT-B/16, 224 px, 1024 images"
BERT = "BERT-base, 64 x 512 tokens"
GPT = "GPT-2 124M, 32 x 1,024 tokens"
XLA_ATTENTION = "--config.model.attention=xla"
LENGTHS = "--config.data.pack_documents=false"  # attention gets lengths, and no mask [B, 1, T, T]
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
TEXT = {
    "baseline": ("", []),
    "attention xla": ("", [XLA_ATTENTION]),
    "one document a row": ("", [LENGTHS]),
}
# Of each work: {variant: (XLA flags, words)}. "auto" is cuDNN's attention in these recipes.
VARIANTS = {
    RESNET: {"baseline": ("", []), "deterministic": (DETERMINISTIC, [])},
    VIT: {
        "baseline": ("", []),
        "attention xla": ("", [XLA_ATTENTION]),
        "deterministic, attention xla": (DETERMINISTIC, [XLA_ATTENTION]),
    },
    GPT: TEXT,
    BERT: TEXT,
}
FLAGS = (
    # AshishKumar4/dew, docs/performance.md: half the compile time and up to 6 % of the step on an
    # A100. MaxText's recipes for the H100 set it too.
    "--xla_gpu_enable_triton_gemm=false",
    # dew: up to 4 %; the merger of products joins weights anew in every step.
    "--xla_gpu_dot_merger_threshold_mb=0",
    # dew: 4 % on an RTX 4080, nothing on an A100; results no longer depend on the batch's split.
    "--xla_allow_excess_precision=false",
    # dew: costs 2 to 8 %; kernels are no longer chosen by timing, which differs between runs.
    "--xla_gpu_autotune_level=0",
    # dew: off costs 3 % on small steps. MaxText's recipes for the H100 switch it off.
    "--xla_gpu_enable_command_buffer=",
    # dew: no gain on one GPU.
    "--xla_gpu_enable_latency_hiding_scheduler=true",
)


class Row(NamedTuple):
    """One measurement.

    Attributes:
      group: of `GROUPS`, or "ceilings".
      name: of the work.
      command: the words of its process; its last line, or all that it prints, is JSON.
      variant: of a work that runs in several ways.
      flags: XLA flags.
    """

    group: str
    name: str
    command: list[str]
    variant: str = ""
    flags: str = ""


def python(*words: str) -> list[str]:
    """Returns a command of this interpreter."""
    return [sys.executable, *words]


def bench(group: str, name: str, args: argparse.Namespace) -> Row:
    """Returns a row of `step.py`; its name says what runs."""
    recipe, changes = ROWS[name]
    count = 3 if args.tiny else STEPS.get(recipe, 30)
    words = words_of(recipe, changes, count, args.tiny)
    return Row(group, f"{recipe}:tiny" if args.tiny else name, python("-m", "jssl", *words))


def steps(args: argparse.Namespace) -> list[Row]:
    """Lists the training steps."""
    return [bench("steps", name, args) for name in ((RESNET, VIT, GPT) if args.tiny else ROWS)]


def peers(args: argparse.Namespace, gpu: bool) -> list[Row]:
    """Lists the training steps of PyTorch; none if that interpreter lacks a package."""
    script = [args.peer_python, "benchmarks/peers.py", *([] if gpu else ["--cpu"])]
    listing = Row("peers", "", [*script, "--list"])
    try:
        listed = subprocess.run(
            listing.command, cwd=ROOT, env=environment(listing), capture_output=True, text=True
        )
    except OSError as error:  # no such interpreter
        print(error, file=sys.stderr)
        return []
    if listed.returncode:
        print(*listed.stderr.splitlines()[-1:], file=sys.stderr)
        return []
    names = json.loads(listed.stdout.splitlines()[-1])[: 1 if args.tiny else None]
    count = "1" if args.tiny else "20"
    return [Row("peers", name, [*script, "--row", name, "--steps", count]) for name in names]


def cifar(args: argparse.Namespace) -> list[Row]:
    """Lists SimCLR on CIFAR-10 for each seed; none without data, but for the tiny size."""
    if not args.data and not args.tiny:
        return []
    variant = "tiny" if args.tiny else "epochs50"
    command = python(
        "benchmarks/time_to_accuracy.py",
        f"--config=configs/simclr_cifar10.py:{variant}",
        f"--commit={commit(args.commit)}",
    )
    if args.data:
        command += [f"--config.data.dir={args.data}", "--config.data.source=tfds"]
        command += ["--config.data.name=cifar10"]
    seeds = SEEDS[:1] if args.tiny else SEEDS
    return [Row("cifar", f"seed {seed}", [*command, f"--config.seed={seed}"]) for seed in seeds]


def variants(args: argparse.Namespace) -> list[Row]:
    """Lists the baseline and the variants of each work in turn, twice."""
    rows = []
    for name in (VIT,) if args.tiny else VARIANTS:
        plain = bench("variants", name, args)
        rows += [
            plain._replace(variant=variant, flags=flags, command=[*plain.command, *words])
            for variant, (flags, words) in VARIANTS[name].items()
        ]
    return rows if args.tiny else 2 * rows


def flags(args: argparse.Namespace) -> list[Row]:
    """Lists the baseline and each flag in turn, twice for each work."""
    rows = []
    for name in (VIT,) if args.tiny else (VIT, RESNET, GPT):
        plain = bench("flags", name, args)
        ways = [plain._replace(variant="baseline")]
        ways += [
            plain._replace(variant=flag, flags=flag) for flag in FLAGS[: 1 if args.tiny else None]
        ]
        rows += ways if args.tiny else 2 * ways
    return rows


def planned(args: argparse.Namespace, gpu: bool) -> dict[str, list[Row]]:
    """Returns the rows of each group of the plan."""
    lists = {
        "steps": lambda: steps(args),
        "peers": lambda: peers(args, gpu),
        "cifar": lambda: cifar(args),
        "variants": lambda: variants(args),
        "flags": lambda: flags(args),
    }
    return {group: lists[group]() for group in GROUPS if args.plan in ("all", group)}


def environment(row: Row) -> dict[str, str]:
    """Returns the environment of a row; PYTHONPATH is for this interpreter only."""
    env = dict(os.environ)
    if row.command[0] == sys.executable:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    else:
        env.pop("PYTHONPATH", None)
    if row.flags:
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {row.flags}".strip()
    return env
