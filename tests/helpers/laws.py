"""A recipe on a mesh, for the laws."""

import functools
import json

import jax
from conftest import make_mesh

from jssl.config import Config, load
from jssl.data.loader import Feed
from jssl.perf import compiler
from jssl.training.setup import setup_run, train_step

EASY = {  # an optimizer under which any objective should fall within a few steps
    "optim.name": "adamw",
    "optim.lr": "0.003",
    "optim.lr_scaling": "none",
    "optim.schedule": "constant",
    "optim.warmup_steps": "0",
    "optim.clip_norm": "0",
}


# Rounding differs with the number of devices, and a large rate amplifies it without bound.
GENTLE = EASY | {"optim.name": "sgd", "optim.lr": "1e-6"}
SECOND_RATE = "optim_discriminator.lr"


def for_both(recipe, overrides):
    """Overrides of a recipe of two players: both optimizers have the rate that they name."""
    if overrides and "optim.lr" in overrides and "optim_discriminator" in load(recipe):
        return {SECOND_RATE: overrides["optim.lr"]} | overrides
    return overrides


class Small:
    """A recipe on a mesh: its run, its first state, its step and its batches.

    `like`: another Small, whose first state is taken, laid out anew; it saves compiling `init`.
    """

    def __init__(self, recipe, overrides=None, devices=None, like=None):
        config = Config(load(recipe, for_both(recipe, overrides)))
        self.run = setup_run(config, devices or make_mesh(1))
        feed = Feed(self.run.data, config.seed, config.batch_size, self.run.mesh, 0)
        self.batches = [feed.batch(feed.held, feed.next()) for _ in range(3)]
        feed.close()
        places = jax.tree.map(lambda leaf: leaf.sharding, self.run.shapes)
        self.first = jax.device_put(like.first, places) if like else self.run.init()
        step = functools.partial(train_step, self.run)
        self.jitted = compiler.jit(step, self.run.mesh, out_shardings=(places, None))
        self.traced = self.jitted.trace(self.first, self.batches[0])

    @functools.cached_property
    def step(self):
        """The compiled step."""
        return self.traced.lower().compile()

    def work(self) -> float:
        """FLOPs of the step on each device."""
        return self.step.cost_analysis()["flops"]

    def steps(self, count=3, batches=None, step=None):
        """(state, losses) after some steps."""
        state, found = self.trace(count, batches, step)
        return state, [row["loss"] for row in found]

    def trace(self, count=3, batches=None, step=None):
        """(state, metrics of each step) after some steps; `step`: another one than the compiled."""
        state, found = self.first, []
        for i in range(count):
            given = batches or self.batches
            state, metrics = (step or self.step)(state, given[i % len(given)])
            found.append({key: float(value) for key, value in metrics.items()})
        return state, found


def losses(folder) -> dict:
    """{step: (loss, grad_norm)} of a run's metrics.jsonl."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows if "loss" in row}
