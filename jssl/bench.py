"""`jssl bench`: the speed of a recipe's training step, with made-up images on the device."""

import math
import time
from types import SimpleNamespace

import jax
import numpy as np

from jssl import data, durations, flops, memory, schema, values
from jssl.config import Config
from jssl.data import packed, tokenizer
from jssl.data.canvas import canvas_of
from jssl.data.feed import Feed
from jssl.data.tokens import Tokens
from jssl.run import check_batch, compile_step, model_flops, prepare

EXAMPLES = 1_281_167  # of ImageNet: what an epoch is where the data is made up


def bench(tree, steps: int, warmup: int = 3) -> dict:
    """Compiles the whole training step (views, gradient, update) and times `steps` of it.

    ms_per_step is the mean over all steps, queued as in training; p50_ms and p99_ms are those of
    steps waited for one by one, which shows what `lax.cond` hides. mfu is None on devices whose
    peak rate is unknown, peak_bytes where the device does not count its memory.
    """
    config = Config(tree)
    source = made_up(config)
    config = Config(durations.resolved(config._tree, EXAMPLES))
    run = prepare(config, source=source)
    check_batch(run)
    feed = Feed(run.data, config.seed, config.batch_size, run.mesh, 0)
    fed, began = feed.next(), time.perf_counter()
    state = run.init()
    with memory.explained(run):
        step = compile_step(run, feed).lower(state, feed.held, fed).compile()
        memory.check(step, run)
    compiled = time.perf_counter() - began
    for _ in range(warmup):
        state, metrics = step(state, feed.held, feed.next())
    jax.block_until_ready(state)
    state, seconds = timed(step, state, feed, steps)
    one_by_one = []
    for _ in range(steps):
        state, alone = timed(step, state, feed, 1)
        one_by_one.append(alone * 1e3)
    feed.close()
    device, work = run.mesh.devices.flat[0], model_flops(run)
    peak = flops.peak(device.device_kind)
    rate = work * steps / seconds
    return {
        "config": config.method,
        "device": device.device_kind,
        "devices": run.mesh.size,
        "batch_size": config.batch_size,
        "examples_per_s": round(config.batch_size * steps / seconds, 1),
        "ms_per_step": round(seconds / steps * 1e3, 3),
        "p50_ms": round(float(np.percentile(one_by_one, 50)), 3),
        "p99_ms": round(float(np.percentile(one_by_one, 99)), 3),
        "flops_per_step": work,
        "mfu": round(rate / (peak * run.mesh.size), 4) if peak else None,
        "compile_s": round(compiled, 2),
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }


def timed(step, state, feed, steps: int):
    """(state, seconds) of `steps` steps, until the last one is done."""
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, feed.held, feed.next())
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - began


def made_up(config) -> data.Data:
    """Random images of the recipe's canvas, one batch or 64 MB of them, kept on the device; for
    text as many rows of random tokens, of ``config.vocab.size`` ids (0: as of bytes)."""
    schema.check(config._tree)
    if config.data.length:
        return data.Data(made_up_text(config), True, 0, 1.0)
    values.check("config.data.canvas", config.data.canvas, values.Pixels)
    shape = (*canvas_of(config.data.canvas, config.data.aspect), config.data.channels)
    count = max(2, min(config.batch_size, 2**26 // math.prod(shape)))
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return data.Data(packed.arrays(images, None, "made-up images", "train"), True, 0, 1.0)


def made_up_text(config) -> Tokens:
    size = config.vocab.size or tokenizer.Bytes().vocab["size"]
    none = np.zeros(size, bool)
    fake = SimpleNamespace(
        vocab=tokenizer.Bytes().vocab | {"size": size}, begins=none, follows=none
    )
    length = config.data.length
    flat = np.random.default_rng(0).integers(4, size, config.batch_size * length, np.int32)
    offsets = np.arange(0, len(flat) + 1, length)
    return Tokens("made-up text", flat, offsets, fake, length, True, config.data.words)
