"""A config made real: mesh, data, method, the state's shapes and places, the compiled step.

Training, evaluation and benchmarks all begin here.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import agree, claim, data, durations, flops, memory, mesh, methods, schema
from jssl.config import Config, UserError, bind, near
from jssl.core import Method, guarded
from jssl.data.absent import open_or_absent
from jssl.evals import finetune


class Run(NamedTuple):
    """Everything of a run but its state and its position in the data."""

    config: Config
    mesh: Any
    method: Method
    data: Any
    example: dict  # two real examples, for shapes
    shapes: Any  # the state's ShapeDtypeStructs, with shardings

    def init(self):
        """The state at step 0, sharded from birth."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        start = jax.jit(self._init, out_shardings=places)
        with memory.explained(self, batch=False):
            memory.check(start.lower().compile(), self, batch=False)
            return start()

    def _init(self):
        return self.method.init(keys(self.config)[0], self.example)


def keys(config):
    """(for init, for the steps): two independent keys of ``config.seed``."""
    return jax.random.split(jax.random.key(config.seed))


def prepare(config: Config, devices=None, source=None, training: bool = True) -> Run:
    """Checks the config against the machine and builds all that it names; `devices` (a mesh) and
    `source` (a `data.Data`) may be given instead. Not `training`: the state has the sizes that it
    was trained with, whatever data is looked at now; without a `source` the run's own data may be
    gone (`data.absent`)."""
    agree.together(lambda: schema.check(config._tree))
    agree.check(lambda: claim.common(config._tree))
    devices = devices or bind(mesh.make, config.mesh, "mesh", devices=None)
    if source is None:
        load = lambda: bind(data.load, config.data, "data")
        source = agree.together(load if training else lambda: open_or_absent(config))
    agree.check(lambda: found_in(source.source), "give all processes the same data set")
    config = sized(config, source.source, training)
    method = agree.together(lambda: guarded(methods.load(config), config.method))
    method = once(method)
    if training:
        check_honored(config, method)
        finetune.check(config)
    example = agree.together(lambda: first_two(source.source))
    run = Run(config, devices, method, source, example, None)
    shapes = jax.eval_shape(run._init)
    places = mesh.shardings(shapes, devices)
    place = lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to)
    return run._replace(shapes=jax.tree.map(place, shapes, places))


def once(method: Method) -> Method:
    """`method` with `init` and `train_step` traced once.

    The trace serves the shapes, the FLOP count and the program that runs. `inline` adds no call to
    that program.
    """
    inline = partial(jax.jit, inline=True)
    return method._replace(init=inline(method.init), train_step=inline(method.train_step))


def first_two(source) -> dict:
    """Two examples of a source, for shapes."""
    example = source.read(np.array([0, min(1, len(source) - 1)]))
    example.pop("damaged")
    return example


def found_in(source) -> dict:
    """What the processes of a run have to find alike in their data."""
    return {
        "the number of examples": len(source),
        "the classes": list(source.classes or ()),
        "the shape of an example": list(source.canvas),
        "the tokenizer": vocabulary(source),
        "the fingerprint of the data": getattr(source, "fingerprint", ""),
    }


def check_honored(config: Config, method: Method) -> None:
    """`UserError` for a key that every recipe has and this method does nothing with."""
    for key in ("accumulate", "grad_cache"):
        wanted, found = config[key], getattr(method, key)
        if wanted != found:
            raise UserError(
                f"config.{key}={wanted} means nothing to config.method={config.method!r}; set it "
                f"to {found}, or let its build pass config.{key} to `minimize` or `Method`"
            )
    if config.log.render_every and not method.render:
        raise UserError(
            f"config.log.render_every={config.log.render_every}: config.method={config.method!r} "
            "makes no pictures and no text; set it to 0"
        )


def sized(config: Config, source, training: bool) -> Config:
    """The config with what only the data can tell: ``config.examples``, the number that a bank of
    examples needs, and ``config.vocab``, the ids of a tokenizer. A run remembers both."""
    count, known = len(source), config.examples
    if known not in (0, count) and training:
        raise UserError(
            f"config.examples={known}, but {config.data.source!r} has {count}: it has changed "
            "since the run began, or the key should be 0, to have it found"
        )
    found, vocab = {"examples": count if training else known or count}, vocabulary(source)
    if training and getattr(source, "max_value", 0):
        found["data.max_value"] = float(source.max_value)  # of every split
    for key, value in vocab.items() if "vocab" in config else ():
        given = config.vocab[key]
        if given and given != value:
            raise UserError(
                f"config.data.tokenizer={config.data.tokenizer!r} is not the one that this run "
                f"began with: config.vocab.{key} is {given!r} there, and here {value!r}; name that"
            )
        found[f"vocab.{key}"] = value
    config = config.changed(found)
    return Config(durations.resolved(config._tree, config.examples), seen=config._seen)


def vocabulary(source) -> dict:
    """What the tokenizer of a source of text is known by; {} for images."""
    if not hasattr(source, "vocab"):
        return {}
    return source.vocab | {"fingerprint": getattr(source.tokenizer, "fingerprint", "")}


def check_batch(run: Run) -> None:
    """What training asks of a batch size and a machine, and evaluation does not."""
    config = run.config
    if config.batch_size < 2:
        raise UserError(f"config.batch_size={config.batch_size} must be at least 2")
    parts = mesh.batch_parts(run.mesh) * config.accumulate
    examples = len(run.data.source)
    if run.method.compares and config.batch_size > examples:
        fits = examples // parts * parts
        raise UserError(
            f"config.batch_size={config.batch_size} is above the {examples} examples of "
            f"{run.data.source.name}, and the loss of {config.method!r} compares the examples of a "
            f"batch, which would hold some twice; {f'try {fits}' if fits > 1 else 'add some'}"
        )
    what = "parts of data and fsdp" if run.mesh.shape["tensor"] > 1 else "devices"
    what += " x config.accumulate" if config.accumulate > 1 else ""
    mesh.check_batch("config.batch_size", config.batch_size, parts, what)


ELSEWHERE = ("eval", "finetune", "log", "checkpoint", "alarm", "vocab")
ELSEWHERE = tuple(f"config.{key}." for key in ELSEWHERE)


def check_read(config) -> None:
    """Every key of a recipe is read by something; a typo is an error, not a silent default."""
    for key in config.unread():
        section, _, name = key.rpartition(".")
        if key.startswith(ELSEWHERE) or (key == "config.grad_cache" and not config.grad_cache):
            continue
        known = [k.rpartition(".")[2] for k in config._seen if k.rpartition(".")[0] == section]
        raise UserError(f"{key} is read by nothing in {config.method!r}; {near(name, known)}")


def train_step(run: Run, state, batch):
    """(state, metrics) after the step that is due: the method's, with this step's random key."""
    rng = jax.random.fold_in(keys(run.config)[1], state.step)
    return mesh.inside(run.mesh, run.method.train_step)(state, batch, rng)


def compile_step(run: Run, feed):
    """(state, held, fed) -> (state, metrics), compiled; the state's memory is reused. The first
    call raises `UserError` if the program needs more memory than is free."""
    step = lambda state, held, fed: train_step(run, state, feed.batch(held, fed))
    places = jax.tree.map(lambda leaf: leaf.sharding, run.shapes)
    return memory.Step(run, jax.jit(step, donate_argnums=0, out_shardings=(places, None)))


def model_flops(run: Run) -> int:
    """Matrix and convolution FLOPs of one step, without what rematerialisation repeats."""
    config = run.config
    kernels = run.mesh.devices.flat[0].platform != "cpu"  # elsewhere "auto" is "xla"
    wanted = {"model.remat": "none"} | ({"model.attention": "xla"} if kernels else {})
    plain = config.changed(wanted)
    method = run.method if plain._tree == config._tree else methods.load(plain)
    place = mesh.batch_sharding(run.mesh)
    size = config.batch_size
    grow = lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=place)
    batch = jax.tree.map(grow, run.example)
    rng = jax.eval_shape(jax.random.key, 0)
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=mesh.everywhere(run.mesh))
    step = mesh.inside(run.mesh, method.train_step)
    return flops.count(step, run.shapes, batch, rng)
