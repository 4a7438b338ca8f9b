"""`jssl bench`: the speed of a recipe's training step, with random data on the device."""

import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import ml_collections
import numpy as np

from jssl import data
from jssl.commands.arguments import count, require
from jssl.commands.table import Args, Overrides
from jssl.config import Config, durations, load, schema, values
from jssl.core import Metrics, TrainState
from jssl.data.canvas import canvas_of
from jssl.data.loader import Feed
from jssl.data.sources import packed
from jssl.data.text import tokenizer
from jssl.data.text.text_source import Tokens
from jssl.perf import energy, flops, memory
from jssl.training.setup import Run, check_batch, compile_step, model_flops, setup_run

EXAMPLES = 1_281_167  # of ImageNet: the size of a data set that is made up


def bench(
    tree: ml_collections.ConfigDict, steps: int, vocab_size: int = 0, warmup: int = 3
) -> dict[str, Any]:
    """Compiles the whole training step (views, gradient, update) and times it.

    Args:
      tree: a whole config.
      steps: the number of timed steps.
      vocab_size: the number of token ids, for text; 0: that of bytes.
      warmup: the number of steps before.

    Returns:
      A dict of JSON values. ms_per_step is the mean over all steps, queued as in training; p50_ms
      and p99_ms are percentiles of steps that run one by one, which show the branches of
      `lax.cond`. mfu is None on devices with an unknown peak rate, peak_bytes on devices that do
      not count their memory, joules_per_example on devices that do not count their energy.
    """
    config = Config(tree)
    source = made_up(config, vocab_size)
    config = Config(durations.resolved(config._tree, EXAMPLES))
    run = setup_run(config, source=source)
    check_batch(run)
    feed = Feed(run.data, config.seed, config.batch_size, run.mesh, 0)
    fed = feed.next()
    began = time.perf_counter()
    state = run.init()
    with memory.explained(run):
        step = compile_step(run, feed).lower(state, feed.held, fed).compile()
        memory.check(step, run)
    compiled = time.perf_counter() - began
    for _ in range(warmup):
        state, metrics = step(state, feed.held, feed.next())
    jax.block_until_ready(state)
    figures = measured(run, feed, step, state, steps)
    feed.close()
    return {
        "config": config.method,
        **figures,
        "compile_s": round(compiled, 2),
        "peak_bytes": (run.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def measured(
    run: Run, feed: Feed, step: Callable[..., Any], state: TrainState, steps: int
) -> dict[str, Any]:
    """Times `steps` steps, queued and then one by one; returns all figures."""
    meter = energy.Meter(run.mesh.local_devices)
    before = meter.joules()
    state, seconds = timed(step, state, feed, steps)
    after = meter.joules()
    one_by_one = []
    for _ in range(steps):
        state, alone = timed(step, state, feed, 1)
        one_by_one.append(alone * 1e3)
    return {
        **speed(run, steps, seconds, one_by_one),
        "joules_per_example": joules_per_example(run, steps, before, after),
    }


def speed(run: Run, steps: int, seconds: float, one_by_one: list[float]) -> dict[str, Any]:
    """Returns the figures of `steps` steps in `seconds`, and of single steps, in ms."""
    batch_size = run.config.batch_size
    device = run.mesh.devices.flat[0]
    work = model_flops(run)
    peak = flops.peak(device.device_kind)
    rate = work * steps / seconds
    return {
        "device": device.device_kind,
        "devices": run.mesh.size,
        "batch_size": batch_size,
        "examples_per_s": round(batch_size * steps / seconds, 1),
        "ms_per_step": round(seconds / steps * 1e3, 3),
        "p50_ms": round(float(np.percentile(one_by_one, 50)), 3),
        "p99_ms": round(float(np.percentile(one_by_one, 99)), 3),
        "flops_per_step": work,
        "mfu": round(rate / (peak * run.mesh.size), 4) if peak else None,
    }


def joules_per_example(
    run: Run, steps: int, before: float | None, after: float | None
) -> float | None:
    """Returns the energy of one example, from the counters of this process before and after."""
    if before is None or after is None:
        return None
    here = len(run.mesh.local_devices) / run.mesh.size
    return round((after - before) / (steps * run.config.batch_size * here), 4)


def timed(
    step: Callable[..., tuple[TrainState, Metrics]], state: TrainState, feed: Feed, steps: int
) -> tuple[TrainState, float]:
    """Runs `steps` steps and waits for the last one; returns (state, seconds)."""
    metrics = None
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, feed.held, feed.next())
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - began


def made_up(config: Config, vocab_size: int = 0) -> data.DataConfig:
    """Makes random data of the recipe's shape, on the device.

    Args:
      config: a whole config.
      vocab_size: the number of token ids, for text; 0: that of bytes.

    Returns:
      Images, one batch or 64 MB of them, or one batch of rows of tokens.
    """
    schema.check(config._tree)
    if config.data.seq_len:
        return data.DataConfig(made_up_text(config, vocab_size), True, 0, 1.0)
    values.check("config.data.max_side", config.data.max_side, values.Pixels)
    shape = (*canvas_of(config.data.max_side, config.data.aspect), config.data.channels)
    count = max(2, min(config.batch_size, 2**26 // math.prod(shape)))
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    labels = None
    if "labels" in config and config.labels:  # class-conditional
        labels = np.arange(count) % config.num_classes
    return data.DataConfig(packed.arrays(images, labels, "made-up images", "train"), True, 0, 1.0)


def made_up_text(config: Config, vocab_size: int) -> Tokens:
    """Makes one batch of rows of random tokens."""
    size = vocab_size or tokenizer.ByteTokenizer().vocab["size"]
    no_ids = np.zeros(size, bool)
    vocab = tokenizer.ByteTokenizer().vocab | {"size": size}
    fake: Any = SimpleNamespace(vocab=vocab, begins=no_ids, follows=no_ids, fingerprint="made up")
    length = config.data.seq_len
    flat = np.random.default_rng(0).integers(4, size, config.batch_size * length, np.int32)
    offsets = np.arange(0, len(flat) + 1, length)
    return Tokens("made-up text", flat, offsets, fake, length, True, config.data.word_ids)


def run(args: Args, overrides: Overrides) -> dict[str, Any]:
    """Measures the recipe --config."""
    vocab = count(args, "vocab") if args["vocab"] else 0
    return bench(load(require(args, "config", "bench"), overrides), count(args, "steps"), vocab)
